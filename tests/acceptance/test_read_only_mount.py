"""Test a store on a read-only mount: it can be looked at, and nothing else."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import create_user
from support import ledger_rows
from support.command import Home
from support.sending import create_mailing

from skychimp.models import Run
from skychimp.store.schema import create_store


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Return a command line that uses a store on a read-only mount, with a run that was killed."""
    real, mounted = tmp_path / "real", tmp_path / "mounted"
    for folder in (real, mounted):
        folder.mkdir(mode=0o700)
    store = create_store(f"sqlite:///{real / 'skychimp.db'}")
    ada = create_user(store, "ada")
    create_mailing(store, ada, ["bob@example.org"])
    with store.write() as db:
        db.add(Run(host="here", pid=1, started_at=ledger_rows.NINE, heartbeat_at=ledger_rows.NINE))
    (real / "skychimp.db.run-1").touch(mode=0o600)
    store.close()
    mount = ["mount", "--bind", str(real), str(mounted)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a folder, and not in every container")
    subprocess.run(["mount", "-o", "remount,ro,bind", str(mounted)], check=True)
    yield Home(tmp_path, SKYCHIMP_STORE=str(mounted / "skychimp.db"), SKYCHIMP_MAIL__SENDER="Ada <ada@skychimp.test>")
    subprocess.run(["umount", mounted], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a folder")
def test_store_on_a_read_only_mount_can_be_looked_at(home: Home) -> None:
    status = home.call("status", "--json")
    assert (status.status, status.json["queue"], status.json["sending"]) == (0, {}, 0)
    checked = home.call("store", "check", "--json")
    assert (checked.status, checked.json["ok"]) == (0, True)
    assert home.call("blog", "list").status == 0
    planned = home.call("run", "--dry-run", "--json")
    assert [client["email"] for client in planned.json["clients"]] == ["bob@example.org"]
    refused = home.call("run")
    assert refused.status == 1
    assert "mount its file system writable" in refused.err
