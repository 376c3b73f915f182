"""Test the output of `report`, `why`, `stats --range`, `resolve` and `mailings log` for people and scripts."""

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
from support.queue_steps import create_client, update_row

from skychimp.cli.display import charts
from skychimp.cli.display.report_view import draw_report
from skychimp.models import DeliveryState, Occurrence, OccurrenceState, Outcome
from skychimp.permissions import Actor
from skychimp.services.reporting import reports
from skychimp.store.database import Store

HOSTILE = "550 5.7.1 \x1b[31m<script>alert()</script> \u202e=cmd|"


@pytest.fixture
def mailing_id(store: Store, ada: Actor) -> int:
    """Create a mailing with emails that were sent, refused with a hostile reply, unknown, and queued."""
    mailing_id = ledger_rows.mailing(store, ada)
    occurrence = ledger_rows.occurrence(store, mailing_id)
    for number in range(30):
        sent = ledger_rows.delivery(store, occurrence, f"a{number}@one.example", DeliveryState.SENT, None)
        ledger_rows.attempt(store, sent, Outcome.SENT, "250 ok", ledger_rows.NINE + timedelta(seconds=number))
    failed = ledger_rows.delivery(store, occurrence, "b@two.example", DeliveryState.FAILED, None)
    ledger_rows.attempt(store, failed, Outcome.DEFERRED, "450 4.2.0 later")
    ledger_rows.attempt(store, failed, Outcome.FAILED, HOSTILE, ledger_rows.NINE + timedelta(hours=1))
    unknown = ledger_rows.delivery(store, occurrence, "c@two.example", DeliveryState.UNKNOWN, None)
    ledger_rows.attempt(store, unknown, Outcome.UNKNOWN, "connection closed")
    ledger_rows.delivery(store, occurrence, "d@two.example", DeliveryState.QUEUED)
    return mailing_id


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_report_as_json(home: Home, mailing_id: int) -> None:
    report = home.call("report", "1", "--json").json

    assert (report["id"], report["deliveries"], report["sent"], report["failed"], report["unknown"]) == (
        1,
        33,
        30,
        1,
        1,
    )
    assert report["tries"] == {"0": 1, "1": 31, "2": 1}
    (occurrence,) = report["occurrences"]
    assert (occurrence["queued"], occurrence["state"], occurrence["due_at"]) == (1, "open", "2026-01-01T09:00:00+00:00")
    assert sum(point["sent"] for point in occurrence["rate"]) == 30
    assert {reply["outcome"]: reply["attempts"] for reply in report["replies"]} == {
        "sent": 30, "deferred": 1, "failed": 1, "unknown": 1,
    }  # fmt: skip
    assert [(domain["domain"], domain["failed"]) for domain in report["domains"]] == [
        ("one.example", 0),
        ("two.example", 1),
    ]


def test_report_in_a_pipe_and_as_csv(home: Home, mailing_id: int) -> None:
    line = home.call("report", "1").out.rstrip("\n").split("\t")
    assert line[:10] == ["2026-01-01T09:00:00+00:00", "open", "30", "0", "0", "1", "1", "1", "0", "0"]
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
def test_drawn_report_fits_and_is_escaped(store: Store, ada: Actor, mailing_id: int, width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO(), highlight=False)
    for part in draw_report(reports.mailing_report(store, ada, mailing_id), width):
        console.print(part)
    text = console.export_text()

    assert all(len(line) <= width for line in text.splitlines())
    for expected in (
        "33 emails, 33 attempts",
        "90.9 %",
        "0 attempts",
        "550 5.7.1",
        "up to 1.4 emails per second",
        "one.example",
    ):
        assert expected in text
    assert not {"\x1b", "\u202e"} & set(text)


def test_report_as_html(home: Home, mailing_id: int) -> None:
    assert home.call("report", "1", "--html", "page.html").status == 0
    page = (home.folder / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert home.call("report", "1", "--html", "-").out[:500] == page[:500]
    assert home.call("report", "1", "--html", "no/such/folder.html").status == 2


ERRORS = [
    (("report", "99"), 4),
    (("report", "1", "--csv", "--json"), 2),
    (("report", "1", "--table", "people"), 2),
    (("why", "zoe@example.org"), 4),
    (("why", "nobody"), 2),
    (("stats", "--range", "soon"), 2),
    (("mailings", "log", "1", "--since", "someday"), 2),
    (("mailings", "log", "1", "--csv", "--json"), 2),
    (("mailings", "log", "1", "--domain", "no domain"), 2),
    (("resolve", "--sent"), 2),
    (("resolve", "--sent", "1"), 6),
    (("resolve", "--sent", "99"), 4),
    (("resolve", "99"), 2),
]
"""Commands, and their exit statuses. None of them changes anything, so one store is enough."""


def test_exit_status_of_errors(home: Home, mailing_id: int) -> None:
    for arguments, status in ERRORS:
        done = home.call(*arguments)

        assert (done.status, done.out) == (status, ""), arguments
        assert done.err.startswith('{"error": ' if "--json" in arguments else "error: "), arguments


def test_report_of_a_mailing_that_was_never_due(store: Store, ada: Actor, home: Home) -> None:
    mailing_id = ledger_rows.mailing(store, ada)

    assert home.call("report", str(mailing_id)).out == ""
    assert home.call("report", str(mailing_id), "--json").json["occurrences"] == []
    assert "Nothing was due yet." in home.call("report", str(mailing_id), "--html", "-").out


def test_why_as_json_and_in_a_pipe(store: Store, ada: Actor, home: Home, mailing_id: int) -> None:
    create_client(store, ada, "nobody.yet")
    history = home.call("why", "b@two.example", "--json").json
    ((chosen,), clients) = (history["chosen"], history["clients"])
    assert [attempt["status"] for attempt in chosen["attempts"]] == ["deferred", "failed"]
    assert chosen["attempts"][1]["reply"] == HOSTILE  # JSON keeps the value
    assert clients == []

    deferred, failed = (line.split("\t") for line in home.call("why", "b@two.example").out.splitlines())
    assert (deferred[:5], failed[3]) == (["chosen", "1", "2026-01-01T09:00:00+00:00", "deferred", "1"], "failed")
    assert "\\u001b" in failed[6]
    assert failed[8].startswith("<")
    (left_out,) = (line.split("\t") for line in home.call("why", "nobody.yet@example.org").out.splitlines())
    assert left_out[0] == "left out"


def test_range_of_days_for_scripts(home: Home, mailing_id: int) -> None:
    report = home.call("stats", "--range", "2025-12-31..2026-01-01", "--json").json
    assert [(day["day"], day["sent"], day["failed"]) for day in report["days"]] == [
        ("2025-12-31", 0, 0),
        ("2026-01-01", 30, 1),
    ]
    assert {group["outcome"] for group in report["failures"]} == {"deferred", "failed", "unknown"}
    assert [domain["domain"] for domain in report["best"]] == ["one.example"]
    lines = home.call("stats", "--range", "2026-01-01").out.splitlines()
    assert lines == ["2026-01-01\t30\t0\t1\t1\t1\t0"]


def test_unknown_delivery_is_listed_and_resolved(home: Home, mailing_id: int) -> None:
    (line,) = home.call("resolve").out.splitlines()
    cells = line.split("\t")
    assert (cells[3], cells[5], cells[7], cells[8]) == ("c@two.example", "connection closed", "dot", "relay.example:25")
    assert cells[10].startswith("<")
    assert home.call("resolve", "--failed", cells[0], "--json").json == {"resolved": 1, "resolution": "failed"}
    assert home.call("resolve").out == ""
    assert home.call("report", "1", "--json").json["failed"] == 2


def test_all_are_drawn_on_a_terminal(home: Home, mailing_id: int) -> None:
    for arguments, expected in (
        (("report", "1"), "two.example"),
        (("why", "b@two.example"), "two.example"),
        (("stats", "--range", "2026-01-01"), "one.example"),
        (("resolve",), "c@two.example"),
    ):
        done = home.call(*arguments, width=80, environ={"NO_COLOR": "1"})
        assert (done.status, expected in done.out, "\u202e" in done.out) == (0, True, False)


def test_every_output_shows_the_subjects_that_were_sent(store: Store, ada: Actor, home: Home, mailing_id: int) -> None:
    later = ledger_rows.occurrence(store, mailing_id, ledger_rows.NINE + timedelta(days=1))
    update_row(store, Occurrence, 1, subject="January \u202e")
    update_row(store, Occurrence, later, subject="February")
    assert home.call("messages", "update", "1", "--subject", "March").status == 0

    as_json = home.call("report", "1", "--json").json
    assert as_json["subject"] == "February"
    assert [occurrence["subject"] for occurrence in as_json["occurrences"]] == ["January \u202e", "February"]
    assert [row["subject"] for row in rows(home.call("report", "1", "--csv").out)] == ["January \\u202e", "February"]
    page = home.call("report", "1", "--html", "-").out
    assert "<h1><bdi>February</bdi></h1>" in page
    assert "<bdi>January \\u202e</bdi>" in page
    drawn = home.on_terminal("report", "1", environ={"NO_COLOR": "1"}).out
    assert "February" in drawn.splitlines()[0]
    assert "January \\u202e" in drawn
    assert "March" not in page + drawn


# Log


def test_log_as_csv(home: Home, mailing_id: int) -> None:
    (row,) = rows(home.call("mailings", "log", "1", "--csv", "--reply", "5.7.1").out)

    assert (row["email"], row["status"], row["attempt"], row["code"]) == ("b@two.example", "failed", "2", "550")
    since = home.call("mailings", "log", "1", "--since", "2026-01-01T10:00Z", "--json").json
    assert [attempt["status"] for attempt in since] == ["failed"]
    assert home.call("mailings", "log", "1", "--since", "1h", "--json").json == []


@pytest.mark.parametrize(
    ("option", "read"),
    [
        ("--json", lambda line: json.loads(line)["status"]),
        ("--csv", lambda line: line.split(",")[2]),
        ("--search=two", lambda line: line.split("\t")[2]),
    ],
)
def test_filtered_log_is_followed(
    store: Store, home: Home, mailing_id: int, option: str, read: Callable[[str], str]
) -> None:
    options = ("--follow", "--status", "failed", option)
    command: list[str | Path] = [PROGRAM, "mailings", "log", "1", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=home.environ, cwd=home.folder, text=True) as following:
        assert following.stdout is not None
        if option == "--csv":
            assert following.stdout.readline().startswith("at,email,status")
        assert read(following.stdout.readline()) == "failed"
        late = ledger_rows.delivery(store, 1, "late@two.example", DeliveryState.FAILED, None)
        ledger_rows.attempt(store, late, Outcome.SENT, "250 ok", datetime.now(UTC))
        ledger_rows.attempt(store, late, Outcome.FAILED, "550 no", datetime.now(UTC))
        line = following.stdout.readline()
        following.terminate()
        rest = following.stdout.read()

    assert (read(line), "late@two.example" in line, rest) == ("failed", True, "")


# Charts


@pytest.mark.parametrize(
    ("values", "line"),
    [([], ""), ([0, 0], ""), ([1], "█"), ([0, 1, 8], " ▂█"), ([1, 1000], "▁█"), ([1, 2, 3, 4], "▅█")],
)
def test_sparkline(values: list[float], line: str) -> None:
    assert charts.sparkline(values, 2 if len(values) == 4 else 9) == line


@pytest.mark.parametrize(
    ("share", "drawn"), [(0, ""), (1, "████"), (0.5, "██"), (0.3, "█▏"), (1e-9, "▏"), (0.99999, "███▉")]
)
def test_bar(share: float, drawn: str) -> None:
    console = Console(width=10, record=True, file=io.StringIO())
    console.print(charts.bar(share, 4))
    assert console.export_text().rstrip() == drawn


def test_smallest_share_is_visible_in_a_bar_of_any_width() -> None:
    for width in range(1, 200):
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(charts.bar(1e-9, width))
        assert console.export_text().rstrip() == "▏", width


@pytest.mark.parametrize(
    ("seconds", "formatted"),
    [(0.2, "under 1 s"), (1, "1 s"), (119, "119 s"), (120, "2 min"), (7300, "2 h"), (200_000, "2 d"), (90_000, "25 h")],
)
def test_elapsed_time(seconds: float, formatted: str) -> None:
    assert charts.format_elapsed(timedelta(seconds=seconds)) == formatted


def test_finished_occurrence_shows_its_duration(store: Store, ada: Actor, mailing_id: int) -> None:
    finished_at = ledger_rows.NINE + timedelta(hours=3)
    update_row(store, Occurrence, 1, state=OccurrenceState.FINISHED, finished_at=finished_at)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(*draw_report(reports.mailing_report(store, ada, mailing_id), 80))

    assert "finished in 3 h" in console.export_text()
