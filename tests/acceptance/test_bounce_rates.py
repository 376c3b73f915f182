"""A mailing bounces too much: it is held, the report says why, and it goes on once its owner lets it."""

from pathlib import Path

from support.command import Home
from support.queue_steps import claim, close_leases, create_client, create_deliveries, create_mailing, open_due, send
from support.returned import bounce, complaint, return_path

from skychimp.models import Every, Outcome
from skychimp.permissions import Actor
from skychimp.store.database import Store

REASON = "20 % of its emails bounced (12 of 60), the limit is 10 %"


def deliver(folder: Path, mails: list[bytes]) -> None:
    """Put new emails into a Maildir."""
    for name in ("new", "cur", "tmp"):
        (folder / name).mkdir(parents=True, mode=0o700, exist_ok=True)
    for number, mail in enumerate(mails):
        (folder / "new" / str(number)).write_bytes(mail)


def test_mailing_that_bounces_too_much_is_held(store: Store, ada: Actor, home: Home, tmp_path: Path) -> None:
    for number in range(60):
        create_client(store, ada, f"c{number}")
    create_mailing(store, ada, every=Every.DAY)
    open_due(store)
    create_deliveries(store)
    claims = claim(store)
    send(store, 1, Outcome.SENT, *claims)
    close_leases(store)
    assert home.call("mailings", "show", "1", "--json").json["held"] is None

    mails = [bounce(each.address, "550 5.1.1 no such user", to=return_path(store, each.id)) for each in claims[:12]]
    mails.append(complaint(f"Return-Path: <{return_path(store, claims[12].id)}>\n\n"))
    deliver(tmp_path / "Maildir", mails)
    environ = {"SKYCHIMP_DELIVERY__BOUNCE_RATE": "0.1"}
    done = home.run("inbound", "maildir", str(tmp_path / "Maildir"), "--json", environ=environ)
    assert (done.status, done.json["bounces"], done.json["complaints"]) == (0, 12, 1)

    mailing = home.call("mailings", "show", "1", "--json").json
    assert (mailing["held"], mailing["bounces"], mailing["complaints"]) == (REASON, 12, 1)
    assert REASON in home.call("mailings", "show", "1").out
    (listed,) = home.call("mailings", "list", "--json").json
    assert (listed["held"], listed["bounces"]) == (REASON, 12)

    report = home.call("report", "1", "--json").json
    bounces, complaints = report["rates"]
    assert (bounces["emails"], bounces["of"], bounces["rate"], bounces["limit"]) == (12, 60, 0.2, 0.1)
    assert (complaints["rate"], complaints["advised"]) == (0.016667, 0.001)
    assert report["returned"]["bounced"] == 12
    drawn = home.call("report", "1", width=120).out
    assert "20 % (12 of 60 emails)" in drawn
    assert ", keep below 5 %, never reach 10 % (Amazon SES)" in drawn
    page = home.call("report", "1", "--html", "-").out
    assert "<td>20 % (12 of 60 emails)</td>" in page
    table = home.call("report", "1", "--csv", "--table", "rates").out
    assert table.splitlines()[1].startswith("bounces,12,60,0.2,0.05,0.1,Amazon SES,https://")
    assert home.call("report", "1", "--csv").out.splitlines()[1].endswith(",12,0.2,1,0.016667")

    mailings_log = home.call("mailings", "log", "1", "--json").json
    assert sum(row["returned"] == "bounced" for row in mailings_log) == 12
    assert "\tbounced\t" in home.call("why", claims[0].address).out

    enabled = home.call("mailings", "enable", "1", "--yes", "--json")
    assert (enabled.status, enabled.json["held"]) == (0, None)
