"""Quote the commands that are shown to a person, so that they can be pasted into a shell; pure.

Each command is also harmless if it is pasted together with the double quotes around it in a hint. Inside double quotes
a shell still acts on dollar signs, backticks, backslashes and exclamation marks, and single quotes do not stop it. So
these characters get a backslash each, and everything else that is unsafe is put in single quotes (POSIX.1-2024, shell
command language, section 2.2).
"""

import re

from skychimp.translation import Phrase, tr

_SAFE_WORD = re.compile(r"[A-Za-z0-9_@%+:,./-][A-Za-z0-9_@%+=:,./-]*")  # zsh replaces a word such as =ls
_PIECES = re.compile(r"""[$`"'\\!]|[^$`"'\\!]+""")


def command(*words: object) -> str:
    """Return a `skychimp` command line with each word quoted for the shell."""
    return command_line("skychimp", *words)


def run_hint(*words: object) -> Phrase:
    """Return the hint to run a `skychimp` command."""
    return run_line_hint("skychimp", *words)


def command_line(program: str, *words: object) -> str:
    """Return a command line of any program with each word quoted for the shell."""
    return " ".join(quoted(str(word)) for word in (program, *words))


def run_line_hint(program: str, *words: object) -> Phrase:
    """Return the hint to run a command of any program, such as chmod."""
    return tr('run "{command}"', command=command_line(program, *words))


def arguments(*values: object) -> tuple[object, ...]:
    """Return arguments of a command, after `--` if one of them would otherwise be taken for an option."""
    return ("--", *values) if any(str(value).startswith("-") for value in values) else values


def quoted(word: str) -> str:
    """Return a word quoted for the shell."""
    return "".join(map(_quoted_piece, _PIECES.findall(word))) or "''"


def _quoted_piece(piece: str) -> str:
    if piece[0] in "$`\"'\\!":
        return f"\\{piece}"
    return piece if _SAFE_WORD.fullmatch(piece) else f"'{piece}'"
