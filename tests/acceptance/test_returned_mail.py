"""The daemon reads incoming mail while it sends, and whoever has bounced or unsubscribed is left out."""

from pathlib import Path

from support.command import Home
from support.daemons import Daemon
from support.queue_steps import rows
from support.returned import bounce, return_path, send_mailing, unsubscribe_address

from skychimp.models import Client, ReturnedMail, Suppression
from skychimp.permissions import Actor
from skychimp.store.database import Store

CONFIG = """
mail.sender = "Ada <ada@skychimp.test>"
mail.timezone = "UTC"
inbound.maildir = "{folder}"
"""


def test_daemon_reads_a_maildir(store: Store, ada: Actor, home: Home, tmp_path: Path) -> None:
    bounced, left, _ = send_mailing(store, ada, "grace", "eve", "bob")
    folder = tmp_path / "Maildir"
    for name in ("new", "cur", "tmp"):
        (folder / name).mkdir(parents=True, mode=0o700)
    config = tmp_path / "daemon.toml"
    config.write_text(CONFIG.format(folder=folder))
    config.chmod(0o600)

    with Daemon(store, config, home.environ) as daemon:
        data = bounce("grace@example.org", "550 5.1.1 no such user", to=return_path(store, bounced))
        for name, mail in (("1", data), ("2", f"To: {unsubscribe_address(store, left)}\n\n".encode())):
            (folder / "tmp" / name).write_bytes(mail)
            (folder / "tmp" / name).rename(folder / "new" / name)
        daemon.wait_for(lambda: len(list((folder / "cur").iterdir())) == 2)
        daemon.wait_for(lambda: "read incoming mail" in daemon.event_names)
        assert daemon.stop() == 0

    assert {each.address for each in rows(store, Suppression)} == {"grace@example.org", "eve@example.org"}
    assert len(rows(store, ReturnedMail)) == 1
    assert [client.bad_at is not None for client in rows(store, Client)] == [True, False, False]
    audience = home.call("mailings", "audience", "1", "--json").json
    assert [each["email"] for each in audience if not each["left_out"]] == ["bob@example.org"]
