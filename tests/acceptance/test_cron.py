"""Test the crontab line with Debian's cron. This changes the crontab of this account, and restores it."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import Home
from support.sending import create_mailing, state_counts
from support.stores import store_url

from skychimp.permissions import Actor
from skychimp.store.database import Store

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(shutil.which("cron") is None or os.geteuid() != 0, reason="needs cron, and root to start it"),
]


@pytest.fixture
def crontab() -> Iterator[None]:
    """Run cron, and restore the crontab afterwards."""
    before = subprocess.run(["crontab", "-l"], capture_output=True, text=True, check=False)
    cron = subprocess.Popen(["cron", "-f"])
    yield
    cron.terminate()
    cron.wait()
    if before.returncode == 0:
        subprocess.run(["crontab", "-"], input=before.stdout, text=True, check=True)
    else:
        subprocess.run(["crontab", "-r"], check=False)


def test_cron_sends_due_emails(store: Store, ada: Actor, tmp_path: Path, crontab: None) -> None:
    home = Home(tmp_path)
    config = tmp_path / "skychimp.toml"
    config.write_text('[mail]\nsender = "Ada <ada@skychimp.test>"\n')
    create_mailing(store, ada, ["bob@example.org"])
    line = home.call("--config", str(config), "--store", store_url(store), "service", "cron").out
    subprocess.run(["crontab", "-"], input=line, text=True, check=True)
    deadline = time.monotonic() + 100
    while state_counts(store)["sent"] == 0:
        assert time.monotonic() < deadline, "cron has sent nothing"
        time.sleep(1)
    assert state_counts(store) == {"sent": 1}
