"""`report`, `why`, `stats --range` and `resolve` as a person and a script see them."""

import csv
import io
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
from support import ledger_rows
from support.command import PROGRAM, Home
from support.queue_steps import change, client

from skychimp.cli import charts
from skychimp.cli.commands import report
from skychimp.models import DeliveryState, Occurrence, OccurrenceState, Outcome
from skychimp.permissions import Actor
from skychimp.services.reporting import reports
from skychimp.store.database import Store

HOSTILE = "550 5.7.1 \x1b[31m<script>alert()</script> \u202e=cmd|"


@pytest.fixture
def mailing_id(store: Store, ada: Actor) -> int:
    """A mailing with letters that were sent, refused with hostile words, unknown, and are to come."""
    made = ledger_rows.mailing(store, ada)
    occurrence = ledger_rows.occurrence(store, made)
    for number in range(30):
        sent = ledger_rows.delivery(store, occurrence, f"a{number}@one.example", DeliveryState.SENT, None)
        ledger_rows.attempt(store, sent, Outcome.SENT, "250 ok", ledger_rows.NINE + timedelta(seconds=number))
    failed = ledger_rows.delivery(store, occurrence, "b@two.example", DeliveryState.FAILED, None)
    ledger_rows.attempt(store, failed, Outcome.DEFERRED, "450 4.2.0 later")
    ledger_rows.attempt(store, failed, Outcome.FAILED, HOSTILE, ledger_rows.NINE + timedelta(hours=1))
    unknown = ledger_rows.delivery(store, occurrence, "c@two.example", DeliveryState.UNKNOWN, None)
    ledger_rows.attempt(store, unknown, Outcome.UNKNOWN, "connection closed")
    ledger_rows.delivery(store, occurrence, "d@two.example", DeliveryState.QUEUED)
    return made


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_report_for_scripts(home: Home, mailing_id: int) -> None:
    found = home.call("report", "1", "--json").json

    assert (found["id"], found["deliveries"], found["sent"], found["failed"], found["unknown"]) == (1, 33, 30, 1, 1)
    assert found["tries"] == {"0": 1, "1": 31, "2": 1}
    (occurrence,) = found["occurrences"]
    assert (occurrence["queued"], occurrence["state"], occurrence["due_at"]) == (1, "open", "2026-01-01T09:00:00+00:00")
    assert sum(point["sent"] for point in occurrence["rate"]) == 30
    assert {reply["outcome"]: reply["attempts"] for reply in found["replies"]} == {
        "sent": 30, "deferred": 1, "failed": 1, "unknown": 1,
    }  # fmt: skip
    assert [(one["domain"], one["failed"]) for one in found["domains"]] == [("one.example", 0), ("two.example", 1)]


def test_a_report_in_a_pipe_and_as_csv(home: Home, mailing_id: int) -> None:
    line = home.call("report", "1").out.rstrip("\n").split("\t")
    assert line[:10] == ["2026-01-01T09:00:00+00:00", "open", "30", "0", "1", "1", "1", "0", "0", "33"]
    (occurrence,) = rows(home.call("report", "1", "--csv").out)
    assert (occurrence["sent"], occurrence["queued"]) == ("30", "1")
    domains = rows(home.call("report", "1", "--csv", "--table", "domains").out)
    assert [row["domain"] for row in domains] == ["one.example", "two.example"]
    replies = {row["outcome"]: row for row in rows(home.call("report", "1", "--csv", "--table", "replies").out)}
    assert replies["failed"]["code"] == "550"
    assert "\x1b" not in replies["failed"]["words"]
    rate = rows(home.call("report", "1", "--csv", "--table", "rate").out)
    assert sum(int(row["sent"]) for row in rate) == 30


@pytest.mark.parametrize("width", [80, 120])
def test_a_report_for_eyes_fits_and_does_nothing(store: Store, ada: Actor, mailing_id: int, width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO(), highlight=False)
    for part in report.draw(reports.report(store, ada, mailing_id), width):
        console.print(part)
    seen = console.export_text()

    assert all(len(line) <= width for line in seen.splitlines())
    for words in (
        "33 letters, 33 attempts",
        "90.9 %",
        "0 attempts",
        "550 5.7.1",
        "up to 1.4 letters a second",
        "one.example",
    ):
        assert words in seen
    assert not {"\x1b", "\u202e"} & set(seen)


def test_a_page_for_a_browser(home: Home, mailing_id: int) -> None:
    assert home.call("report", "1", "--html", "page.html").status == 0
    page = (home.folder / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert home.call("report", "1", "--html", "-").out[:500] == page[:500]
    assert home.call("report", "1", "--html", "no/such/folder.html").status == 2


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("report", "99"), 4),
        (("report", "1", "--csv", "--json"), 2),
        (("report", "1", "--table", "people"), 2),
        (("why", "zoe@example.org"), 4),
        (("why", "nobody"), 2),
        (("stats", "--range", "soon"), 2),
        (("mailings", "log", "1", "--since", "yesterday"), 2),
        (("mailings", "log", "1", "--csv", "--json"), 2),
        (("mailings", "log", "1", "--domain", "no domain"), 2),
        (("resolve", "--sent"), 2),
        (("resolve", "--sent", "1"), 6),
        (("resolve", "--sent", "99"), 4),
        (("resolve", "99"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_goes_wrong_has_its_status(home: Home, mailing_id: int, words: tuple[str, ...], status: int) -> None:
    done = home.call(*words)

    assert (done.status, done.out) == (status, "")
    assert done.err.startswith('{"error": ' if "--json" in words else "error: ")


def test_a_mailing_that_has_not_been_due(store: Store, ada: Actor, home: Home) -> None:
    made = ledger_rows.mailing(store, ada)

    assert home.call("report", str(made)).out == ""
    assert home.call("report", str(made), "--json").json["occurrences"] == []
    assert "It has not been due yet." in home.call("report", str(made), "--html", "-").out


def test_why_for_scripts_and_in_a_pipe(store: Store, ada: Actor, home: Home, mailing_id: int) -> None:
    client(store, ada, "nobody.yet")
    found = home.call("why", "b@two.example", "--json").json
    ((chosen,), clients) = (found["chosen"], found["clients"])
    assert [attempt["status"] for attempt in chosen["attempts"]] == ["deferred", "failed"]
    assert chosen["attempts"][1]["reply"] == HOSTILE  # JSON keeps the value
    assert clients == []

    deferred, failed = (line.split("\t") for line in home.call("why", "b@two.example").out.splitlines())
    assert (deferred[:5], failed[3]) == (["chosen", "1", "2026-01-01T09:00:00+00:00", "deferred", "1"], "failed")
    assert "\\u001b" in failed[6]
    assert failed[8].startswith("<")
    (left_out,) = (line.split("\t") for line in home.call("why", "nobody.yet@example.org").out.splitlines())
    assert left_out[0] == "left out"


def test_days_for_scripts(home: Home, mailing_id: int) -> None:
    found = home.call("stats", "--range", "2025-12-31..2026-01-01", "--json").json
    assert [(day["day"], day["sent"], day["failed"]) for day in found["days"]] == [
        ("2025-12-31", 0, 0),
        ("2026-01-01", 30, 1),
    ]
    assert {one["outcome"] for one in found["failures"]} == {"deferred", "failed", "unknown"}
    assert [one["domain"] for one in found["best"]] == ["one.example"]
    lines = home.call("stats", "--range", "2026-01-01").out.splitlines()
    assert lines == ["2026-01-01\t30\t1\t1\t1\t0"]


def test_what_helps_to_decide_about_an_unknown_one(home: Home, mailing_id: int) -> None:
    (line,) = home.call("resolve").out.splitlines()
    cells = line.split("\t")
    assert (cells[3], cells[5], cells[7], cells[8]) == ("c@two.example", "connection closed", "dot", "relay.example:25")
    assert cells[10].startswith("<")
    assert home.call("resolve", "--failed", cells[0], "--json").json == {"resolved": 1, "resolution": "failed"}
    assert home.call("resolve").out == ""
    assert home.call("report", "1", "--json").json["failed"] == 2


def test_a_terminal_shows_all_of_them(home: Home, mailing_id: int) -> None:
    for words, said in (
        (("report", "1"), "two.example"),
        (("why", "b@two.example"), "two.example"),
        (("stats", "--range", "2026-01-01"), "one.example"),
        (("resolve",), "c@two.example"),
    ):
        done = home.on_terminal(*words, environ={"NO_COLOR": "1"})
        assert (done.status, said in done.out, "\u202e" in done.out) == (0, True, False)


# The log


def test_a_log_as_csv(home: Home, mailing_id: int) -> None:
    (row,) = rows(home.call("mailings", "log", "1", "--csv", "--reply", "5.7.1").out)

    assert (row["email"], row["status"], row["attempt"], row["code"]) == ("b@two.example", "failed", "2", "550")
    since = home.call("mailings", "log", "1", "--since", "2026-01-01T10:00Z", "--json").json
    assert [attempt["status"] for attempt in since] == ["failed"]
    assert home.call("mailings", "log", "1", "--since", "1h", "--json").json == []


@pytest.mark.parametrize(
    ("how", "read"),
    [
        ("--json", lambda line: json.loads(line)["status"]),
        ("--csv", lambda line: line.split(",")[2]),
        ("--search=two", lambda line: line.split("\t")[2]),
    ],
)
def test_a_filtered_log_is_followed(
    store: Store, home: Home, mailing_id: int, how: str, read: Callable[[str], str]
) -> None:
    options = ("--follow", "--status", "failed", how)
    command: list[str | Path] = [PROGRAM, "mailings", "log", "1", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=home.environ, cwd=home.folder, text=True) as following:
        assert following.stdout is not None
        if how == "--csv":
            assert following.stdout.readline().startswith("at,email,status")
        assert read(following.stdout.readline()) == "failed"
        late = ledger_rows.delivery(store, 1, "late@two.example", DeliveryState.FAILED, None)
        ledger_rows.attempt(store, late, Outcome.SENT, "250 ok", datetime.now(UTC))
        ledger_rows.attempt(store, late, Outcome.FAILED, "550 no", datetime.now(UTC))
        line = following.stdout.readline()
        following.terminate()
        rest = following.stdout.read()

    assert (read(line), "late@two.example" in line, rest) == ("failed", True, "")


# Bars


@pytest.mark.parametrize(
    ("values", "line"),
    [([], ""), ([0, 0], ""), ([1], "█"), ([0, 1, 8], " ▂█"), ([1, 1000], "▁█"), ([1, 2, 3, 4], "▅█")],
)
def test_values_as_a_line(values: list[float], line: str) -> None:
    assert charts.spark(values, 2 if len(values) == 4 else 9) == line


@pytest.mark.parametrize(
    ("share", "drawn"), [(0, ""), (1, "████"), (0.5, "██"), (0.3, "█▎"), (1e-9, "▏"), (0.99999, "████")]
)
def test_a_share_as_a_bar(share: float, drawn: str) -> None:
    assert charts.bar(share, 4) == drawn


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "under 1 s"), (1, "1 s"), (119, "119 s"), (120, "2 min"), (7300, "2 h"), (200_000, "2 d"), (90_000, "25 h")],
)
def test_a_duration_in_words(seconds: float, said: str) -> None:
    assert charts.span(timedelta(seconds=seconds)) == said


def test_a_finished_occurrence_says_how_long_it_took(store: Store, ada: Actor, mailing_id: int) -> None:
    over = {"state": OccurrenceState.FINISHED, "finished_at": ledger_rows.NINE + timedelta(hours=3)}
    change(store, Occurrence, 1, **over)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(*report.draw(reports.report(store, ada, mailing_id), 80))

    assert "finished in 3 h" in console.export_text()
