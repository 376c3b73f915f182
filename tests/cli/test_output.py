"""Test what is printed: tables on a terminal, lines in a pipe, JSON, and that values from outside are harmless."""

import getpass
import io
import json
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from skychimp.cli.display.tables import CHUNK, COLUMN_WIDTH, GUTTER, ColumnSize, fit
from skychimp.cli.display.values import escape
from skychimp.cli.output import Output, prepare_streams
from skychimp.errors import Interrupted, SkychimpError
from skychimp.listed import Listed
from skychimp.translation import in_language, tr, verbatim

COLUMNS = {"id": "ID", "name": "Name"}
HOSTILE = "[bold]Ada[/bold]\t\n\x1b[31m\u202eevil\u200f\ud800 :smile: [link=x]"
ESCAPED = "[bold]Ada[/bold]\\t\\n\\u001b[31m\\u202eevil\\u200f\\ud800 :smile: [link=x]"


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
def _terminal_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"COLUMNS": "60", "TERM": "xterm", "LINES": "24", "PAGER": ""}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def on_terminal(show: Callable[[], object]) -> str:
    """Return what a function prints if stdout and stderr are one terminal."""
    terminal = Terminal()
    with redirect_stdout(terminal), redirect_stderr(terminal):
        show()
    return terminal.getvalue()


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was printed to stdout or stderr. Not both."""
    out, err = capsys.readouterr()
    assert not (out and err)
    return out + err


# Escaping


@given(st.text(st.characters()))
def test_escaped_text_has_no_control_characters(text: str) -> None:
    escaped = escape(text)
    assert not {unicodedata.category(character) for character in escaped} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert escape(escaped) == escaped
    harmless = [c for c in text if unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
    if len(harmless) == len(text):
        assert escaped == text


@pytest.mark.parametrize(
    ("text", "escaped"),
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
def test_escape(text: str, escaped: str) -> None:
    assert escape(text) == escaped


# In a pipe


@given(st.lists(st.tuples(st.integers(), st.text(st.characters())), max_size=5))
def test_each_record_is_one_line_in_a_pipe(values: list[tuple[int, str]]) -> None:
    stream = io.StringIO()
    with redirect_stdout(stream):
        Output().rows([Row(*value) for value in values], COLUMNS)
    lines = stream.getvalue().split("\n")[:-1]
    assert [line.split("\t") for line in lines] == [[str(number), escape(text)] for number, text in values]


def test_plain_text_of_values(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2026, 12, 1, 9, 0, 0, 5, tzinfo=timezone(timedelta(hours=3)))
    Output().rows([Row(1, value) for value in (None, True, False, 0, 0.5, at, ["a", "b\n"], [])], COLUMNS)
    values = ["", "yes", "no", "0", "0.5", "2026-12-01T09:00:00.000005+03:00", "a,b\\n", ""]
    assert printed(capsys) == "".join(f"1\t{value}\n" for value in values)


def test_one_record_has_a_line_per_field(capsys: pytest.CaptureFixture[str]) -> None:
    Output().record(Row(1, "a\nb"))
    Output().record({"id": 2, "name": "c", "more": "d"}, ["name"])
    assert printed(capsys) == "id\t1\nname\ta\\nb\nname\tc\n"


def test_long_line_is_not_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    Output().rows([Row(1, "x" * 500)], COLUMNS)
    assert printed(capsys) == f"1\t{'x' * 500}\n"


@pytest.mark.parametrize("as_json", [True, False])
def test_list_is_shown_as_it_is_read(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    def records() -> Iterator[Row]:
        yield Row(1)
        yield Row(2)
        assert '"id": 1' in capsys.readouterr().out or not as_json
        raise SkychimpError(verbatim("gone"))

    with pytest.raises(SkychimpError):
        Output(json=as_json).rows(records(), COLUMNS)


def test_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert on_terminal(lambda: Output().rows([], COLUMNS, empty=verbatim("none yet"))) == "none yet\n"
    Output().rows([], COLUMNS)
    Output(json=True).rows([], COLUMNS)
    assert printed(capsys) == "[]\n"


# JSON


@given(st.lists(st.text(st.characters()), max_size=4))
def test_json_keeps_values_unchanged(values: list[str]) -> None:
    """Use a stream that is prepared as for a command, and text that no encoding can hold."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    with redirect_stdout(stream):
        prepare_streams()
        Output(json=True).rows([Row(number, value) for number, value in enumerate(values)], COLUMNS)
        Output(json=True).record(Row(7, values))
    as_list, _, one = raw.getvalue().decode("utf-8").rpartition('{\n  "id": 7')
    assert json.loads(as_list) == [{"id": number, "name": value} for number, value in enumerate(values)]
    assert json.loads('{"id": 7' + one) == {"id": 7, "name": values}


def test_json_times_have_an_offset(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=True).record({"at": datetime(2026, 12, 1, 9, tzinfo=UTC), "none": None})
    assert json.loads(printed(capsys)) == {"at": "2026-12-01T09:00:00+00:00", "none": None}


def test_json_error(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=True).error(SkychimpError(verbatim("no\n\u202e"), verbatim("do")))
    assert json.loads(printed(capsys)) == {"error": {"code": "failed", "message": "no\n\u202e", "hint": "do"}}


# On a terminal


def test_table_shows_hostile_text_escaped() -> None:
    shown = on_terminal(lambda: Output().rows([Row(1, HOSTILE), Row(2, ["vip", "[red]"])], COLUMNS))
    shown = shown.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert "\x1b" not in shown
    heading, rule, *rows = filter(str.strip, shown.splitlines())
    assert heading.split() == ["ID", "Name"]
    assert set(rule) <= set("─ ")
    assert "".join(line[4:].rstrip("\n") for line in rows).replace(" ", "") == (ESCAPED + "vip, [red]").replace(" ", "")


def test_narrow_table_folds_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    address = f"{'a' * 40}@{'example.' * 5}org"
    shown = on_terminal(lambda: Output().rows([Row(1, address)], COLUMNS))
    assert address in "".join(line[4:].strip() for line in shown.splitlines()[2:])


def test_address_is_not_broken_if_there_is_room() -> None:
    rows = [Attempt("2026-12-01 09:00:00", "natalya@example.org", "550 5.1.1 there is nobody of that name here")] * 2
    shown = on_terminal(lambda: Output().rows(rows, {"at": "At", "email": "Email", "reply": "Reply"}))
    assert "natalya@example.org" in shown
    assert max(len(line.replace("\x1b[1m", "").replace("\x1b[0m", "")) for line in shown.splitlines()) <= 60


_words = st.text("ab ", max_size=50)
_short_addresses = st.text("ab ", max_size=12)


@given(st.lists(st.tuples(_words, _short_addresses, _words), min_size=1, max_size=3), st.integers(30, 120))
def test_table_is_complete_and_fits_the_terminal(values: list[tuple[str, str, str]], width: int) -> None:
    rows = [Attempt(*cells) for cells in values]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        shown = on_terminal(lambda: Output().rows(rows, {"at": "1", "email": "2", "reply": "3"}))
    lines = shown.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()
    assert max(map(len, lines)) <= width
    for character in "ab":
        cells = "".join(map("".join, values))
        assert "".join(lines[2:]).count(character) == cells.count(character)


_sizes = st.builds(
    lambda word, more, kind: ColumnSize(word, word if kind else word + more, kind != "", kind == "key"),
    st.integers(1, 60),
    st.integers(0, 60),
    st.sampled_from(["", "", "key", "time"]),
)


@given(st.lists(_sizes, min_size=1, max_size=8), st.integers(30, 150))
def test_words_are_broken_only_without_room(sizes: list[ColumnSize], width: int) -> None:
    named = {str(number): size for number, size in enumerate(sizes)}
    widths = fit(named, ["0", "1"] if len(sizes) > 2 else [], width)
    room = width - (len(widths) - 1) * GUTTER
    assert sum(widths.values()) <= room
    assert all(widths[name] <= named[name].cell for name in widths)
    keys = [name for name, size in named.items() if size.is_key and name not in ("0", "1")]
    assert set(keys) <= set(widths)
    if sum(named[name].word for name in widths if named[name].is_rigid) <= room:
        assert all(widths[name] == named[name].cell for name in widths if named[name].is_rigid)
    needed = [size.least(COLUMN_WIDTH) for size in named.values()]
    if sum(needed) + GUTTER * (len(needed) - 1) <= width:
        assert set(named) - set(widths) <= {"0", "1"}
    if sum(named[name].word for name in widths) <= room:
        assert all(widths[name] >= named[name].word for name in widths)
    elif not any(sizes[int(name)].is_rigid for name in widths):
        broken = [named[name].word for name in widths if widths[name] < named[name].word]
        assert min(broken) >= max(widths.values()) - 1


def test_optional_and_empty_columns_are_left_out() -> None:
    rows = [Attempt("2026-12-01 09:00:00", "natalya@example.org", "250 2.0.0 queued as 4F2A9C0D1E")]
    columns = {"at": "At", "email": "Email", "reply": "Reply"}
    shown = on_terminal(lambda: Output().rows(rows, columns, optional=["at"]))
    assert "09:00" not in shown
    assert "natalya@example.org   250 2.0.0 queued as 4F2A9C0D1E" in shown
    assert "Name" not in on_terminal(lambda: Output().rows([Row(1), Row(2, None)], COLUMNS))


def test_very_long_list_is_one_table() -> None:
    number = 2 * CHUNK + 1
    shown = on_terminal(lambda: Output().rows((Row(each, "x") for each in range(number)), COLUMNS, noun="row"))
    count, heading, rule, *rows = (line.rstrip() for line in shown.splitlines())
    assert ("more than 1,000 rows" in count, "Name" in heading, set(rule)) == (True, True, {"─"})
    assert rows == [f"{each:<7}   x" for each in range(number)]


@pytest.mark.parametrize(
    ("shown", "total", "is_part", "text"),
    [
        (1, 1, False, "1 entry"),
        (3, 3, False, "3 entries"),
        (3, 2_001, True, "3 of 2,001 entries"),
        (3, 3, True, "3 entries"),
        (3, None, True, "3 entries"),
        (CHUNK + 1, 2_001, False, "2,001 entries"),
        (CHUNK + 1, None, False, "more than 1,000 entries"),
    ],
)
def test_list_begins_with_the_number_of_rows(shown: int, total: int | None, is_part: bool, text: str) -> None:
    rows = Listed((Row(number, "x") for number in range(shown)), lambda: total, is_part=is_part)
    printed = on_terminal(lambda: Output().rows(rows, COLUMNS, noun="entry", plural="entries"))
    assert re.sub(r"\x1b\[\d+m", "", printed.splitlines()[0]) == text


def test_filter_that_matches_nothing_is_said() -> None:
    shown = partial(Output().rows, [], COLUMNS, noun="client", empty=verbatim("no clients yet"))
    assert on_terminal(shown) == "no clients yet\n"
    assert on_terminal(partial(shown, is_filtered=True)) == "no matching clients\n"


@pytest.mark.parametrize(("total", "text"), [(30, "0 of 30 clients"), (0, "no clients yet"), (None, "no clients yet")])
def test_page_behind_the_end_is_not_an_empty_list(total: int | None, text: str) -> None:
    rows: Listed[Row] = Listed(iter(()), lambda: total, is_part=True)
    assert (
        on_terminal(lambda: Output().rows(rows, COLUMNS, noun="client", empty=verbatim("no clients yet")))
        == f"{text}\n"
    )


def test_long_value_continues_below_itself_and_no_word_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    path = "/" + "x" * 90
    shown = on_terminal(lambda: Output().record({"id": 1, "reason": "refused " * 12 + path}))
    lines = re.sub(r"\x1b\[\d*m", "", shown).splitlines()
    six_words = " ".join(["refused"] * 6)
    assert lines == ["id      1", f"reason  {six_words}", f"        {six_words}", f"        {path}"]


@pytest.mark.parametrize("value", ["漢字 " * 30, "one  two " * 12, " " * 100, "x"])
def test_line_of_a_long_value_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Chinese characters are two columns wide. Spaces between words are kept."""
    monkeypatch.setenv("NO_COLOR", "1")
    shown = on_terminal(lambda: Output().record({"name": value}))
    lines = re.sub(r"\x1b\[\d*m", "", shown).removesuffix("\n").split("\n")
    assert max(map(cell_len, lines)) <= 60
    assert " ".join(line[6:] for line in lines) == value


def test_one_record_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    record = {"id": 1, "name": HOSTILE.replace("\n", ""), "body": "one\n[b]two\u2028[/b]"}
    shown = on_terminal(lambda: Output().record(record)).replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert (
        shown.replace("\n      ", " ")
        == f"id    1\nname  {ESCAPED.replace(chr(92) + 'n', '')}\nbody  one\n[b]two\\u2028[/b]\n"
    )


def test_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert on_terminal(lambda: Output().rows([Row(1, "x")], COLUMNS)) == "1\tx\n"
    assert on_terminal(lambda: Output().error(SkychimpError(verbatim("no")))) == "error: no\n"


# Messages


@pytest.mark.parametrize("show", [Output().warn, Output().note, lambda text: Output().error(SkychimpError(text, text))])
def test_message_is_one_line(capsys: pytest.CaptureFixture[str], show: Any) -> None:
    show(HOSTILE)
    lines = printed(capsys).splitlines()
    assert [line.removeprefix("error: ").removeprefix("hint: ") for line in lines] == [ESCAPED] * len(lines)


def test_quiet_shows_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = Output(quiet=True)
    quiet.note(verbatim("next: ..."))
    with quiet.progress("sending") as report:
        report(1, "sent")
    assert printed(capsys) == ""
    quiet.warn(verbatim("line 2: no address"))
    assert printed(capsys) == "line 2: no address\n"


def test_progress_without_a_terminal_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with Output().progress("sending", 100) as report:
        for number in range(1, 8):
            report(number, "sent")
    lines = printed(capsys).splitlines()
    assert lines
    assert len(lines) < 4
    assert re.fullmatch(r"sending: [23] of 100 sent, \d:\d\d:\d\d left, 0/s", lines[0])


def test_progress_bar_is_removed_at_the_end() -> None:
    def work() -> None:
        with Output().progress("[b]sending", 10) as report:
            report(10, "sent [/b]")

    shown = on_terminal(work)
    for text in ("[b]sending", "10/10", "sent [/b]"):
        assert text in shown
    assert shown.endswith("\x1b[2K")


@pytest.mark.parametrize(("seconds", "is_shown"), [(0.9, False), (1.1, True)])
def test_progress_bar_appears_after_its_delay(monkeypatch: pytest.MonkeyPatch, seconds: float, is_shown: bool) -> None:
    now = time.monotonic()

    def work() -> None:
        nonlocal now
        with Output().progress("counting", delay_s=1) as report:
            report(10, "deliveries")
            now += seconds
            report(20, "deliveries")

    monkeypatch.setattr("time.monotonic", lambda: now)

    assert ("20/? deliveries" in on_terminal(work)) == is_shown


def test_question_goes_to_stderr(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(" yes \n"))
    assert Output().ask(verbatim("sure\u202e?")) == "yes"
    with pytest.raises(Interrupted):
        Output().ask(verbatim("and now?"))
    assert capsys.readouterr() == ("", "sure\\u202e? and now? \n")


@pytest.mark.parametrize("raised", [KeyboardInterrupt, EOFError])
def test_question_without_an_answer_ends_its_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, raised: type[BaseException]
) -> None:
    def end(*_: object, **__: object) -> str:
        raise raised

    monkeypatch.setattr(getpass, "getpass", end)
    with pytest.raises(Interrupted if raised is EOFError else KeyboardInterrupt):
        Output().ask_secret(verbatim("Password:"))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(readline=end))
    with pytest.raises(Interrupted if raised is EOFError else KeyboardInterrupt):
        Output().ask(verbatim("Email:"))
    assert capsys.readouterr() == ("", "\nEmail: \n")


# In Russian


@pytest.mark.parametrize(
    ("total", "text"),
    [
        (1, "1 клиент"),
        (2, "показано 1, всего 2 клиента"),
        (5, "показано 1, всего 5 клиентов"),
        (21, "показано 1, всего 21 клиент"),
        (1_002, "показано 1, всего 1\xa0002 клиента"),
    ],
)
def test_number_of_rows_in_russian(total: int, text: str) -> None:
    rows: Listed[Row] = Listed(iter([Row(1)]), lambda: total, is_part=True)
    with in_language("ru"):
        shown = on_terminal(lambda: Output().rows(rows, COLUMNS, noun="client"))
    assert text in shown.splitlines()[0]


def test_table_in_russian_has_its_own_words() -> None:
    columns = {"id": tr("ID"), "name": tr("Name")}
    rows = [Row(1, True), Row(2, [tr("none"), "Ада"]), Row(3, tr("none"))]
    with in_language("ru"):
        shown = on_terminal(lambda: Output().rows(rows, columns))
        record = on_terminal(lambda: Output().record({"name": tr("none"), "text": "none"}))
    assert re.findall("[А-Яа-я]+", shown) == ["Имя", "да", "нет", "Ада", "нет"]
    assert re.findall("нет|none", record) == ["нет", "none"]


def test_pipe_and_json_are_in_english(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row(1, tr("none")), Row(2, True)]
    with in_language("ru"):
        Output().rows(rows, COLUMNS)
        Output(json=True).record(rows[0])
    assert printed(capsys) == '1\tnone\n2\tyes\n{\n  "id": 1,\n  "name": "none"\n}\n'


@pytest.mark.parametrize(
    ("rows", "is_filtered", "text"),
    [
        ([], True, "подходящих клиентов нет"),
        ([], False, "пока ничего нет"),
        (Listed(iter(()), lambda: 2, is_part=True), False, "показано 0, всего 2 клиента"),
    ],
)
def test_empty_list_in_russian(rows: Any, is_filtered: bool, text: str) -> None:
    with in_language("ru"):
        shown = on_terminal(lambda: Output().rows(rows, COLUMNS, noun="client", is_filtered=is_filtered))
    assert shown == f"{text}\n"
