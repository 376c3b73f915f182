"""Test `--canary` as a user gives it: what is refused, what is asked, and what the commands say about who waits."""

from typing import Any

import pytest
from sqlalchemy import update
from support.command import Home
from support.queue_steps import NOW, create_client

from skychimp.models import Delivery, DeliveryState, Occurrence
from skychimp.permissions import Actor
from skychimp.store.database import Store

CREATE = ("mailings", "create", "--message", "1", "--all-clients", "--every", "day")


@pytest.fixture
def ten(store: Store, ada: Actor, home: Home) -> Home:
    """Ada's command line, with message 1 and ten clients."""
    assert home.call("messages", "create", "--subject", "Hello", "--body", "Dear {{ client.name }}").status == 0
    for number in range(10):
        create_client(store, ada, f"c{number}")
    return home


def canary_of(shown: Any) -> tuple[str | None, str | None]:
    return shown.json["canary"], shown.json["canary_wait"]


@pytest.mark.parametrize(
    ("size", "stored"),
    [("50", "50"), ("1%", "1%"), ("0.5%", "0.5%"), (" 007 ", "7"), ("2 %", "2%"), ("99.5%", "99.5%")],
)
def test_canary_is_a_number_or_a_percentage(ten: Home, size: str, stored: str) -> None:
    assert canary_of(ten.call(*CREATE, "--start", "2030-01-01", "--canary", size, "--json")) == (stored, "30m")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        *((("--canary", size), "invalid --canary") for size in (
            "", "0", "0%", "0.0%", "100%", "-1", "1.5", "1e3", "50 clients", "%", "12345678", "١٠", "1%\n2", "50;x")),
        (("--canary-wait", "5m"), "--canary-wait needs a canary"),
        (("--canary", "5", "--canary-wait", "0s"), "--canary-wait is too short"),
        (("--canary", "5", "--canary-wait", "13h"), "--canary-wait 13h is too long for --every day"),
        (("--canary", "5", "--canary-wait", "soon"), "invalid duration"),
    ],
)  # fmt: skip
def test_invalid_canary_is_refused(ten: Home, options: tuple[str, ...], problem: str) -> None:
    refused = ten.call(*CREATE, "--start", "2030-01-01", *options)

    assert (refused.status, refused.out) == (2, "")
    assert refused.err.startswith("error: ")
    assert problem in refused.err
    assert "\nhint: " in refused.err
    assert ten.call("mailings", "list", "--json").json == []


def test_canary_is_changed_copied_and_removed(ten: Home) -> None:
    ten.call(*CREATE, "--start", "2030-01-01")
    assert canary_of(ten.call("mailings", "show", "1", "--json")) == (None, None)
    updated = ten.call("mailings", "update", "1", "--canary", "20%", "--canary-wait", "2h", "--json")
    assert canary_of(updated) == ("20%", "2h")
    assert "2 of them first; the other 8 after 2h, unless more than 10% of the first emails fail\n" in updated.err
    assert canary_of(ten.call("mailings", "update", "1", "--canary", "3", "--json")) == ("3", "2h")
    assert canary_of(ten.call("mailings", "update", "1", "--canary-wait", "1h", "--json")) == ("3", "1h")
    assert "canary\t3 clients first, the others 1h later\n" in ten.call("mailings", "show", "1").out
    assert canary_of(ten.call("mailings", "duplicate", "1", "--json")) == ("3", "1h")

    assert ten.call("mailings", "update", "1", "--no-canary", "--canary", "3").status == 2
    assert canary_of(ten.call("mailings", "update", "1", "--no-canary", "--json")) == (None, None)
    assert canary_of(ten.call("mailings", "duplicate", "1", "--json")) == (None, None)
    assert ten.call("mailings", "update", "1", "--canary-wait", "1h").status == 2


def test_shorter_period_is_refused_if_the_others_wait_longer(ten: Home) -> None:
    ten.call(*CREATE[:-1], "week", "--start", "2030-01-01", "--canary", "3", "--canary-wait", "2d")

    refused = ten.call("mailings", "update", "1", "--every", "day")

    assert (refused.status, refused.err) == (
        2, "error: --canary-wait 2d is too long for --every day\nhint: use at most 12h\n"
    )  # fmt: skip


def test_every_command_tells_who_waits_and_until_when(ten: Home) -> None:
    created = ten.call(*CREATE, "--start", "now", "--canary", "2", "--json")

    assert created.status == 0
    assert "2 of them first; the other 8 after 30m, unless more than 10% of the first emails fail\n" in created.err
    counts = created.json["run"]
    assert (counts["outbox"], counts["queued"], counts["waiting"]) == (2, 0, 8)

    shown = ten.call("mailings", "show", "1", "--json").json
    assert shown["canary_until"] is not None
    assert "canary\t2 clients first, the others 30m later; the others wait until " in ten.call(
        "mailings", "show", "1"
    ).out.replace("  ", "")
    run = ten.call("run", "--json")
    assert (run.status, run.json["outbox"], run.json["queued"], run.json["waiting"]) == (0, 0, 0, 8)
    waiting = ten.call("status", "--json").json["canaries"]
    assert waiting == [{"mailing_id": 1, "until": shown["canary_until"], "emails": 8}]
    assert "canaries\t1: 8 emails wait until " in ten.call("status").out
    forecast = ten.call("run", "--plan", "--json").json["clients"]
    reasons = [row["left_out"] for row in forecast]
    assert (reasons.count("waits for the canary"), reasons.count("written to the outbox")) == (8, 2)
    one = next(row["email"] for row in forecast if row["left_out"] == "waits for the canary")
    why = ten.call("why", one, "--json").json
    assert why["chosen"][0]["reason"] == "the canary of the mailing is sent first"
    assert why["chosen"][0]["next_try_at"] == shown["canary_until"]


def test_dry_run_names_the_clients_who_get_it_first(ten: Home) -> None:
    ten.call(*CREATE, "--start", "now", "--canary", "3", "--no-send")

    would_get_it = [row["email"] for row in ten.call("run", "--dry-run", "--json").json["clients"]]
    ten.call("run")

    assert sorted(row["email"] for row in ten.call("mailings", "log", "1", "--json").json) == sorted(would_get_it)
    assert len(would_get_it) == 3


def end_wait(store: Store, *, failed: int = 0) -> None:
    """Let the wait be over, as if it had begun long ago, and let canary emails have failed."""
    delivery = Delivery.__table__
    with store.write() as db:
        for _ in range(failed):
            sent = db.scalar(delivery.select().where(delivery.c.state == DeliveryState.OUTBOX).limit(1))
            db.execute(update(delivery).where(delivery.c.id == sent).values(state=DeliveryState.FAILED))
        until = db.scalar(Occurrence.__table__.select().with_only_columns(Occurrence.__table__.c.canary_until))
        db.execute(update(delivery).where(delivery.c.next_try_at == until).values(next_try_at=NOW))
        db.execute(update(Occurrence.__table__).values(canary_until=NOW))


def test_run_sends_the_rest_once_the_wait_is_over(store: Store, ten: Home) -> None:
    ten.call(*CREATE, "--start", "now", "--canary", "2")
    end_wait(store)
    assert len(ten.call("run", "--dry-run", "--json").json["clients"]) == 8

    run = ten.call("run", "--json")

    assert (run.status, run.json["outbox"], run.json["waiting"]) == (0, 8, 0)
    assert ten.call("mailings", "show", "1", "--json").json["canary_until"] is None
    assert ten.call("status", "--json").json["canaries"] == []


def test_bad_canary_is_reported_and_enable_lets_the_rest_go(store: Store, ten: Home) -> None:
    ten.call(*CREATE, "--start", "now", "--canary", "2")
    end_wait(store, failed=1)
    plan = ten.call("run", "--plan", "--json").json["clients"]
    assert [row["left_out"] for row in plan].count("the mailing is held: 1 of 2 canary emails failed") == 10

    run = ten.call("run", "--json")

    assert (run.status, run.json["outbox"], run.json["queued"]) == (75, 0, 8)
    assert "mailing held" in run.err
    assert ten.call("mailings", "show", "1", "--json").json["held"] == "1 of 2 canary emails failed"
    assert ten.call("run").status == 75
    enabled = ten.call("mailings", "enable", "1", "--json")
    assert (enabled.status, enabled.json["held"]) == (0, None)
    assert ten.call("run", "--json").json["outbox"] == 8


def test_question_names_how_many_get_it_now(ten: Home) -> None:
    no = (("now? [y/N]", "n\n"),)

    asked = ten.on_terminal(*CREATE, "--start", "now", "--canary", "20%", answers=no)

    assert asked.status == 1
    assert "Send to 2 of 10 clients now? [y/N]" in asked.out
    assert ten.call("mailings", "list", "--json").json == []
