"""What is printed: a table on a terminal, plain lines in a pipe, JSON; and nothing from outside does anything there."""

import io
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.cli import output
from skychimp.cli.output import Output, escape
from skychimp.cli.table_layout import EDGES, GUTTER, Need, fit
from skychimp.errors import Interrupted, SkychimpError

COLUMNS = {"id": "ID", "name": "Name"}
HOSTILE = "[bold]Ada[/bold]\t\n\x1b[31m\u202eevil\u200f\ud800 :smile: [link=x]"
SHOWN = "[bold]Ada[/bold]\\t\\n\\u001b[31m\\u202eevil\\u200f\\ud800 :smile: [link=x]"


@dataclass
class Row:
    id: int
    name: Any = ""


@dataclass
class Attempt:
    at: str
    email: str
    reply: str


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _width(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"COLUMNS": "60", "TERM": "xterm", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def on_terminal(show: Callable[[], object]) -> str:
    """What is seen where both streams are one terminal."""
    made = Terminal()
    with redirect_stdout(made), redirect_stderr(made):
        show()
    return made.getvalue()


def written(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert not (out and err)
    return out + err


# Escaping


@given(st.text(st.characters()))
def test_escaped_text_does_nothing(text: str) -> None:
    shown = escape(text)
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert escape(shown) == shown
    kept = [c for c in text if unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
    if len(kept) == len(text):
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Наталья 吳健雄 — “é” 👍", "Наталья 吳健雄 — “é” 👍"),
        ("a\tb\r\nc", "a\\tb\\r\\nc"),
        ("\x00\x1b\x7f\x85", "\\u0000\\u001b\\u007f\\u0085"),
        ("\u200b\u202e\u2066\ufeff", "\\u200b\\u202e\\u2066\\ufeff"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\U000e0041", "\\U000e0041"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_is_escaped(text: str, shown: str) -> None:
    assert escape(text) == shown


# In a pipe


@given(st.lists(st.tuples(st.integers(), st.text(st.characters())), max_size=5))
def test_a_record_is_a_line_whatever_it_holds(values: list[tuple[int, str]]) -> None:
    stream = io.StringIO()
    with redirect_stdout(stream):
        Output().rows([Row(*value) for value in values], COLUMNS)
    lines = stream.getvalue().split("\n")[:-1]
    assert [line.split("\t") for line in lines] == [[str(number), escape(text)] for number, text in values]


def test_plain_values(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2026, 12, 1, 9, 0, 0, 5, tzinfo=timezone(timedelta(hours=3)))
    Output().rows([Row(1, value) for value in (None, True, False, 0, 0.5, at, ["a", "b\n"], [])], COLUMNS)
    values = ["", "yes", "no", "0", "0.5", "2026-12-01T09:00:00.000005+03:00", "a,b\\n", ""]
    assert written(capsys) == "".join(f"1\t{value}\n" for value in values)


def test_one_record_is_a_line_a_field(capsys: pytest.CaptureFixture[str]) -> None:
    Output().one(Row(1, "a\nb"))
    Output().one({"id": 2, "name": "c", "more": "d"}, ["name"])
    assert written(capsys) == "id\t1\nname\ta\\nb\nname\tc\n"


def test_a_long_line_is_never_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    Output().rows([Row(1, "x" * 500)], COLUMNS)
    assert written(capsys) == f"1\t{'x' * 500}\n"


@pytest.mark.parametrize("as_json", [True, False])
def test_a_list_is_shown_as_it_is_read(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    def items() -> Iterator[Row]:
        yield Row(1)
        yield Row(2)
        assert '"id": 1' in capsys.readouterr().out or not as_json
        raise SkychimpError("gone")

    with pytest.raises(SkychimpError):
        Output(json=as_json).rows(items(), COLUMNS)


def test_an_empty_list_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert on_terminal(lambda: Output().rows([], COLUMNS, empty="none yet")) == "none yet\n"
    Output().rows([], COLUMNS)
    Output(json=True).rows([], COLUMNS)
    assert written(capsys) == "[]\n"


# JSON


@given(st.lists(st.text(st.characters()), max_size=4))
def test_json_keeps_every_value(values: list[str]) -> None:
    """Also what no encoding can hold, through a stream as it is set up for a command."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    with redirect_stdout(stream):
        output.prepare_streams()
        Output(json=True).rows([Row(number, value) for number, value in enumerate(values)], COLUMNS)
        Output(json=True).one(Row(7, values))
    shown, _, one = raw.getvalue().decode("utf-8").rpartition('{\n  "id": 7')
    assert json.loads(shown) == [{"id": number, "name": value} for number, value in enumerate(values)]
    assert json.loads('{"id": 7' + one) == {"id": 7, "name": values}


def test_times_in_json_have_an_offset(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=True).one({"at": datetime(2026, 12, 1, 9, tzinfo=UTC), "none": None})
    assert json.loads(written(capsys)) == {"at": "2026-12-01T09:00:00+00:00", "none": None}


def test_an_error_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=True).error(SkychimpError("no\n\u202e", "do"))
    assert json.loads(written(capsys)) == {"error": {"code": "failed", "message": "no\n\u202e", "hint": "do"}}


# On a terminal


def test_a_table_shows_what_is_there_and_nothing_more() -> None:
    shown = on_terminal(lambda: Output().rows([Row(1, HOSTILE), Row(2, ["vip", "[red]"])], COLUMNS))
    shown = shown.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert "\x1b" not in shown
    heading, rule, *rows = filter(str.strip, shown.splitlines())
    assert heading.split() == ["ID", "Name"]
    assert set(rule) <= set("─ ")
    assert "".join(line[4:].rstrip("\n") for line in rows).replace(" ", "") == (SHOWN + "vip, [red]").replace(" ", "")


def test_a_narrow_table_folds_and_never_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    address = f"{'a' * 40}@{'example.' * 5}org"
    shown = on_terminal(lambda: Output().rows([Row(1, address)], COLUMNS))
    assert address in "".join(line[4:].strip() for line in shown.splitlines()[2:])


def test_an_address_is_not_broken_where_there_is_room() -> None:
    rows = [Attempt("2026-12-01 09:00:00", "natalya@example.org", "550 5.1.1 there is nobody of that name here")] * 2
    shown = on_terminal(lambda: Output().rows(rows, {"at": "At", "email": "E-mail", "reply": "Reply"}))
    assert "natalya@example.org" in shown
    assert max(len(line.replace("\x1b[1m", "").replace("\x1b[0m", "")) for line in shown.splitlines()) <= 60


@given(st.lists(st.tuples(*[st.text("ab ", max_size=50)] * 3), min_size=1, max_size=3), st.integers(30, 120))
def test_a_table_loses_no_letter_and_is_never_too_wide(values: list[tuple[str, str, str]], width: int) -> None:
    rows = [Attempt(*cells) for cells in values]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        shown = on_terminal(lambda: Output().rows(rows, {"at": "1", "email": "2", "reply": "3"}))
    lines = shown.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()
    assert max(map(len, lines)) <= width
    for letter in "ab":
        cells = "".join(map("".join, values))
        assert "".join(lines[3:]).count(letter) == cells.count(letter)


_needs = st.builds(
    lambda word, more, firm: Need(word, word + more, firm), st.integers(1, 60), st.integers(0, 60), st.booleans()
)


@given(st.lists(_needs, min_size=1, max_size=8), st.integers(30, 150))
def test_a_table_breaks_a_word_only_where_the_words_have_no_room(needs: list[Need], width: int) -> None:
    named = {str(number): need for number, need in enumerate(needs)}
    widths = fit(named, ["0", "1"] if len(needs) > 2 else [], width)
    room = width - (len(widths) - 1) * GUTTER - EDGES
    assert sum(widths.values()) <= room
    assert all(widths[name] <= named[name].all for name in widths)
    assert set(named) - set(widths) <= {"0", "1"}
    if sum(named[name].word for name in widths) <= room:
        assert all(widths[name] >= named[name].word for name in widths)
    elif not any(needs[int(name)].firm for name in widths):
        broken = [named[name].word for name in widths if widths[name] < named[name].word]
        assert min(broken) >= max(widths.values()) - 1


def test_a_narrow_table_leaves_out_what_can_be_spared_and_any_table_what_is_empty() -> None:
    rows = [Attempt("2026-12-01 09:00:00", "natalya@example.org", "250 2.0.0 queued as 4F2A9C0D1E")]
    columns = {"at": "At", "email": "E-mail", "reply": "Reply"}
    shown = on_terminal(lambda: Output().rows(rows, columns, spare=["at"]))
    assert "09:00" not in shown
    assert "natalya@example.org   250 2.0.0 queued as 4F2A9C0D1E" in shown
    assert "Name" not in on_terminal(lambda: Output().rows([Row(1), Row(2, None)], COLUMNS))


def test_a_very_long_list_comes_as_lines() -> None:
    number = output.LONGEST_TABLE + 1
    shown = on_terminal(lambda: Output().rows((Row(each, "x") for each in range(number)), COLUMNS))
    assert shown == "".join(f"{each}\tx\n" for each in range(number))


def test_one_record_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    record = {"id": 1, "name": HOSTILE.replace("\n", ""), "body": "one\n[b]two\u2028[/b]"}
    shown = on_terminal(lambda: Output().one(record)).replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert shown == f"id    1\nname  {SHOWN.replace(chr(92) + 'n', '')}\nbody  one\n[b]two\\u2028[/b]\n"


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert on_terminal(lambda: Output().rows([Row(1, "x")], COLUMNS)) == "1\tx\n"
    assert on_terminal(lambda: Output().error(SkychimpError("no"))) == "error: no\n"


# What is said on the side


@pytest.mark.parametrize("say", [Output().warn, Output().note, lambda text: Output().error(SkychimpError(text, text))])
def test_what_is_said_is_one_line(capsys: pytest.CaptureFixture[str], say: Any) -> None:
    say(HOSTILE)
    lines = written(capsys).splitlines()
    assert [line.removeprefix("error: ").removeprefix("hint: ") for line in lines] == [SHOWN] * len(lines)


def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = Output(quiet=True)
    quiet.note("next: ...")
    with quiet.progress("sending") as tell:
        tell(1, "sent")
    assert written(capsys) == ""
    quiet.warn("line 2: no address")
    assert written(capsys) == "line 2: no address\n"


def test_progress_elsewhere_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with Output().progress("sending", 100) as tell:
        for number in range(1, 8):
            tell(number, "sent")
    lines = written(capsys).splitlines()
    assert lines
    assert len(lines) < 4
    assert re.fullmatch(r"sending: [23] of 100 sent, \d:\d\d:\d\d left, 0/s", lines[0])


def test_progress_on_a_terminal_leaves_nothing_behind() -> None:
    def work() -> None:
        with Output().progress("[b]sending", 10) as tell:
            tell(10, "sent [/b]")

    shown = on_terminal(work)
    for words in ("[b]sending", "10/10", "sent [/b]"):
        assert words in shown
    assert shown.endswith("\x1b[2K")


def test_a_question_goes_to_stderr(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(" yes \n"))
    assert Output().ask("sure\u202e?") == "yes"
    with pytest.raises(Interrupted):
        Output().ask("and now?")
    assert capsys.readouterr() == ("", "sure\\u202e? and now? \n")
