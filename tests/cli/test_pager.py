"""Test that a long list is shown in the pager, on a terminal only."""

import pytest
from support.command import Home

from skychimp.cli.context import Context
from skychimp.cli.options.columns import choose_columns
from skychimp.errors import InvalidValue
from skychimp.services.clients.clients import ClientInfo

NUMBER = 30


@pytest.fixture
def full(home: Home) -> Home:
    """Ada's command line, with more clients than the terminal has lines, and a pager that marks what it shows."""
    rows = "".join(f"c{number}@example.org\n" for number in range(NUMBER))
    assert home.call("clients", "import", "-", stdin=f"email\n{rows}").status == 0
    pager = home.folder / "pager"
    pager.write_text("#!/bin/sh\nsed 's/^/paged: /'\n")
    pager.chmod(0o755)
    home.environ["PAGER"] = str(pager)
    return home


def test_list_that_is_longer_than_the_screen_is_paged(full: Home) -> None:
    lines = full.on_terminal("clients", "list").out.splitlines()
    assert all(line.startswith("paged: ") for line in lines)
    assert f"{NUMBER} clients" in lines[0]
    assert len(lines) == NUMBER + 3


def test_short_list_and_lines_in_a_pipe_are_not_paged(full: Home) -> None:
    shown = full.on_terminal("clients", "list", "--limit", "5").out
    assert "paged" not in shown
    assert f"5 of {NUMBER} clients" in shown
    assert "paged" not in full.call("clients", "list").out
    assert "paged" not in full.on_terminal("clients", "list", "--json").out


@pytest.mark.parametrize("pager", ["", "cat", "/nowhere/pager"])
def test_without_a_pager_the_list_is_shown_as_it_is(full: Home, pager: str) -> None:
    shown = full.on_terminal("clients", "list", environ={"PAGER": pager})
    assert shown.status == 0
    assert f"c{NUMBER - 1}@example.org" in shown.out


def test_pager_that_is_left_early_is_no_error(full: Home) -> None:
    shown = full.on_terminal("clients", "list", environ={"PAGER": "head -n 4"})
    assert (shown.status, shown.out.count("\n")) == (0, 4)
    assert "c0@example.org" in shown.out


def test_columns_are_chosen_by_name(full: Home) -> None:
    assert full.call("clients", "list", "--columns", "email, ID", "--limit", "1").out == "c0@example.org\t1\n"
    assert "Created at" in full.on_terminal("clients", "list", "--columns", "email,created_at", "--limit", "1").out
    for columns, hint in (("emial", "did you mean email?"), ("", "choose from: id, email"), ("a,b,c", "choose from: ")):
        refused = full.call("clients", "list", "--columns", columns)
        assert refused.status == 2
        assert hint in refused.err
    assert full.call("clients", "list", "--columns", "id", "--json").status == 2


def test_every_field_can_be_a_column() -> None:
    context = Context()
    columns = choose_columns(context, "email,fields", {"id": "ID"}, ClientInfo)
    assert columns == {"email": "Email", "fields": "Fields"}
    with pytest.raises(InvalidValue):
        choose_columns(context, "email,", {"id": "ID"}, ClientInfo)
