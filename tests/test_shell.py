"""Commands that are shown to a person can be pasted into a shell."""

import shlex

from hypothesis import given
from hypothesis import strategies as st

from skychimp import shell


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))))
def test_shown_command_is_split_into_the_same_words(words: list[str]) -> None:
    assert shlex.split(shell.command(*words)) == ["skychimp", *words]


def test_hint_quotes_what_the_shell_would_change() -> None:
    assert shell.run_hint("clients", "show", 5) == 'run "skychimp clients show 5"'
    assert shell.run_hint("users", "show", "a; rm -rf /") == "run \"skychimp users show 'a; rm -rf /'\""
