"""Commands that are shown to a person can be pasted into a shell, with or without the double quotes around them."""

import shlex
import shutil
import string
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hostile import ADDRESSES, NAMES, SHELL_CODE

from skychimp import shell

SHELLS = [name for name in ("sh", "bash", "zsh") if shutil.which(name)]
CHARACTERS = f"aZ0{string.punctuation}{string.whitespace}"  # no shell treats one letter or digit unlike another
WORDS = [*SHELL_CODE, *ADDRESSES, *NAMES, *CHARACTERS, *(f"a{character}b" for character in CHARACTERS)]


def run(program: str, script: str, folder: Path) -> bytes:
    return subprocess.run([program, "-c", script], cwd=folder, capture_output=True, timeout=30, check=False).stdout


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))))
def test_shown_command_is_split_into_the_same_words(words: list[str]) -> None:
    assert shlex.split(shell.command(*words)) == ["skychimp", *words]


@pytest.mark.parametrize("program", SHELLS)
def test_real_shells_read_the_same_words(program: str, tmp_path: Path) -> None:
    written = run(program, shell.command_line("printf", r"%s\0", *WORDS), tmp_path)
    assert written.decode().split("\0")[:-1] == WORDS
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("program", SHELLS)
def test_command_pasted_with_its_double_quotes_runs_nothing(program: str, tmp_path: Path) -> None:
    for word in WORDS:
        pasted = shell.run_hint("users", "show", word).removeprefix("run ")
        run(program, f"{pasted}\n", tmp_path)
        assert not list(tmp_path.iterdir()), f"{pasted} runs something"


def test_hint_quotes_what_the_shell_would_change() -> None:
    assert shell.run_hint("clients", "show", 5) == 'run "skychimp clients show 5"'
    assert shell.run_hint("users", "show", "a; rm -rf /") == "run \"skychimp users show 'a; rm -rf /'\""
    assert shell.run_hint("users", "show", "`id`") == 'run "skychimp users show \\`id\\`"'
    assert shell.run_line_hint("chmod", "600", "my file") == "run \"chmod 600 'my file'\""
    assert shell.command("users", "show", "") == "skychimp users show ''"
    assert shell.command("--a=b", "=ls") == "skychimp --a=b '=ls'"


def test_argument_that_looks_like_an_option_comes_after_two_dashes() -> None:
    assert shell.command("why", *shell.arguments("--yes@x.example")) == "skychimp why -- --yes@x.example"
    assert shell.command("why", *shell.arguments("ada@x.example")) == "skychimp why ada@x.example"
