"""Every command tells what was only written to the outbox from what was sent, and says how to send it."""

from pathlib import Path

import pytest
from support.command import Home
from support.sending import SENDER, create_mailing, make_settings, send, state_counts
from support.servers import CountingReceiver

from skychimp.models import Run
from skychimp.permissions import Actor
from skychimp.store.database import Store

ADDRESSES = ["bob@example.org", "eve@example.org"]
NOTE = "2 written to the outbox; nothing has left this machine\n"
HINT = 'hint: set mail.transport = "smtp", then run "skychimp run --from-outbox"\n'


@pytest.fixture
def people(home: Home, store: Store, ada: Actor) -> Home:
    """Return the command line of a user with two clients and a message."""
    for address in ADDRESSES:
        assert home.call("clients", "create", "--email", address).status == 0
    assert home.call("messages", "create", "--subject", "Hello", "--body", "Dear {{ client.name }}").status == 0
    return home


@pytest.fixture
def written(store: Store, ada: Actor, home: Home) -> Home:
    """Return the command line of a user with two emails in the outbox."""
    create_mailing(store, ada, ADDRESSES)
    assert send(store, make_settings(1, mail__transport="outbox")).outbox == 2
    return home


def smtp(port: int) -> dict[str, str]:
    values = {"mail__transport": "smtp", "mail__sender": SENDER, "smtp__host": "127.0.0.1", "smtp__security": "none"}
    values |= {"smtp__port": str(port), "run__patience": "0s"}
    return {f"SKYCHIMP_{name.upper()}": value for name, value in values.items()}


def test_create_and_run_say_that_nothing_was_sent(people: Home) -> None:
    create = ("mailings", "create", "--message", "1", "--start", "now", "--every", "once", "--all-clients")
    created = people.call(*create)
    assert created.err.endswith("\n" + NOTE + HINT)
    assert people.call(*create, "--no-send", "--name", "second").status == 0
    done = people.call("run")
    assert done.out.splitlines()[:2] == ["sent\t0", "outbox\t2"]
    assert done.err == NOTE + HINT
    assert people.call("-q", "run").err == ""
    third = people.call(*create, "--json").json
    assert (third["run"]["sent"], third["run"]["outbox"]) == (0, 2)
    assert [line.rpartition("\t")[2] for line in people.call("mailings", "list").out.splitlines()] == ["2/2"] * 3


def test_config_is_named_in_the_hint(written: Home) -> None:
    config = written.folder / "skychimp.toml"
    config.touch()
    error = written.call("--config", str(config), "report", "1").err
    assert f'hint: set mail.transport = "smtp" in {config}, then run "skychimp run --from-outbox"\n' in error


def test_status_says_that_there_is_no_mail_server(written: Home) -> None:
    done = written.call("status")
    lines = dict(line.split("\t", 1) for line in done.out.splitlines())
    assert lines["mail server"] == "none: emails are written to the outbox"
    assert lines["outbox"] == "2 written, not sent"
    assert lines["last run"].endswith(": 0 sent, 2 outbox")
    assert done.err == "2 written to the outbox; they have not left this machine\n" + HINT
    status = written.call("status", "--json").json
    assert (status["outbox"], status["configured_relay"], status["last_run"]["relay"]) == (2, "outbox", "outbox")
    assert written.call("-q", "status").err == ""


def test_status_warns_if_the_last_run_used_another_mail_server(written: Home, store: Store) -> None:
    other = written.call("status", environ=smtp(2525))
    assert "warning: the last run used the outbox, but these settings name 127.0.0.1:2525\n" in other.err
    assert 'hint: run "skychimp run --from-outbox"\n' in other.err
    with store.write() as db:
        db.get_one(Run, 1).relay = ""  # of an older version
    assert "warning" not in written.call("status", environ=smtp(2525)).err


def test_log_report_why_and_stats_tell_it_from_sent(written: Home) -> None:
    log = written.call("mailings", "log", "1", "--status", "outbox", "--json").json
    assert [(row["status"], row["relay"]) for row in log] == [("outbox", "outbox")] * 2
    assert written.call("mailings", "log", "1", "--status", "sent", "--json").json == []
    report = written.call("report", "1", "--json").json
    assert (report["sent"], report["outbox"]) == (0, 2)
    assert [(domain["sent"], domain["outbox"]) for domain in report["domains"]] == [(0, 2)]
    (reply,) = report["replies"]
    assert (reply["outcome"], reply["meaning"]) == ("outbox", "written to the outbox on this machine, and not sent")
    assert written.call("report", "1").err == NOTE + HINT
    page = written.call("report", "1", "--html", "-").out
    assert "2 of them were only written to the outbox. They have not left the machine." in page
    assert "2 outbox" in written.call("report", "1", width=100).out
    why = written.call("why", ADDRESSES[0], "--json").json
    assert [(each["state"], each["attempts"][0]["status"]) for each in why["chosen"]] == [("outbox", "outbox")]
    assert "outbox" in written.call("why", ADDRESSES[0], width=100).out
    (day,) = [day for day in written.call("stats", "--range", "1d", "--json").json["days"] if day["outbox"]]
    assert (day["sent"], day["outbox"]) == (0, 2)


def test_outbox_is_sent_by_the_installed_command(written: Home, store: Store, tmp_path: Path) -> None:
    refused = written.call("run", "--from-outbox", "--json")
    assert (refused.status, refused.out, refused.error["code"]) == (3, "", "config")
    assert refused.error["message"] == "no mail server is configured"
    with CountingReceiver(tmp_path / "received") as receiver:
        done = written.run("run", "--from-outbox", "--json", environ=smtp(receiver.port))
        receiver.wait()
        assert sorted(email.recipient for email in receiver.received_emails()) == ADDRESSES
    assert (done.status, done.json["sent"], done.json["outbox"]) == (0, 2, 0)
    assert done.json["from_outbox"] == {"queued": 2, "cancelled": 0, "replaced": 0, "left": []}
    assert done.err == "2 emails queued from the outbox\n"
    assert state_counts(store) == {"sent": 2}
    statuses = [row["status"] for row in written.call("mailings", "log", "1", "--json").json]
    assert statuses == ["outbox", "outbox", "sent", "sent"]
    assert "outbox\tempty\n" in written.call("status", environ=smtp(25)).out


def test_what_stays_in_the_outbox_is_said(written: Home) -> None:
    assert written.call("mailings", "disable", "1").status == 0
    done = written.call("run", "--from-outbox", environ=smtp(1))
    assert done.status == 0
    assert "0 emails queued from the outbox\n" in done.err
    assert "mailing 1: 2 emails left in the outbox: the mailing is disabled: no reason given\n" in done.err


def test_empty_outbox_is_said(home: Home) -> None:
    done = home.call("run", "--from-outbox", environ=smtp(1))
    assert (done.status, done.err) == (0, "the outbox is empty\nnothing was due\n")


def test_outbox_without_emails_of_the_mailing_is_said(written: Home) -> None:
    mailing = ("mailings", "create", "--message", "1", "--start", "+1d", "--every", "once", "--all-clients")
    assert written.call(*mailing).status == 0
    done = written.call("run", "--from-outbox", "--mailing", "2", environ=smtp(1))
    assert (done.status, done.err) == (0, "the outbox has no emails of mailing 2\nnothing was due\n")


@pytest.mark.parametrize("option", ["--dry-run", "--plan"])
def test_forecast_of_the_outbox_is_refused(written: Home, option: str) -> None:
    done = written.call("run", "--from-outbox", option)
    assert (done.status, done.out) == (2, "")
    assert done.err.endswith('hint: run "skychimp mailings log ID --status outbox --last" to see them\n')
