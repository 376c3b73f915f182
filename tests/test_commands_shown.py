"""Test that only skychimp/shell.py puts values into the commands that users see, because it quotes them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import skychimp
from skychimp.cli.registry import COMMANDS

ROOT = Path(skychimp.__file__).parent
PATHS = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "shell.py")
VALUE = "\0"
"""Stands for a value in a text."""

COMMAND = re.compile(rf"\bskychimp ({'|'.join(COMMANDS)}|{VALUE})\b|\bskychimp {VALUE}")
OTHER_COMMAND = re.compile(
    r"""(?:\brun:? ["']?|^\$ |["'])(?:sudo|chmod|chown|chgrp|rm|mv|cp|mkdir|sqlite3|systemctl|export) [^"']*\0"""
)
"""A command of another program that is shown with a value in it."""


def template(node: ast.AST) -> str | None:
    """Return the text that an expression builds, with VALUE for each value in it, or None if it builds none."""
    if isinstance(node, ast.JoinedStr):
        texts = (template(part) for part in node.values)
        return "".join(VALUE if text is None else text for text in texts)
    if isinstance(node, ast.FormattedValue):
        return "" if ast.unparse(node.value) == "__version__" else VALUE
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = template(node.left), template(node.right)
        return None if left is right is None else (left or VALUE) + (right or VALUE)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        text = template(node.left)
        return text and re.sub(r"%[sdr]", VALUE, text)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        text = template(node.func.value)
        return text and re.sub(r"\{[^{}]*\}", VALUE, text)
    return None


def commands_with_values(source: str) -> Iterator[str]:
    """Yield the expressions that put a value into a text with a command."""
    for node in ast.walk(ast.parse(source)):
        text = template(node)
        if text and VALUE in text and (COMMAND.search(text) or OTHER_COMMAND.search(text)):
            yield f"line {getattr(node, 'lineno', 0)}: {ast.unparse(node)}"


def uses_of_shlex(source: str) -> Iterator[str]:
    """Yield the names that a module uses from shlex."""
    if "shlex" in source:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "shlex":
                yield node.attr
            if isinstance(node, ast.ImportFrom) and node.module == "shlex":
                yield from (alias.name for alias in node.names)


def test_no_command_is_built_by_hand() -> None:
    found = [(path, each) for path in PATHS for each in commands_with_values(path.read_text(encoding="utf-8"))]
    assert found == [], "use shell.command or shell.run_hint"


def test_nothing_else_quotes_for_the_shell() -> None:
    """Test that shlex is used for reading only: inside double quotes, its quoting does not protect."""
    uses = {(path, name) for path in PATHS for name in uses_of_shlex(path.read_text(encoding="utf-8"))}
    assert {use for use in uses if use[1] != "split"} == set(), "use shell.command_line or shell.quoted"


@pytest.mark.parametrize(
    ("source", "is_found"),
    [
        ("f'see skychimp clients show {email}'", True),
        ("f'skychimp {command}'", True),
        ("'skychimp clients show ' + email", True),
        ("'skychimp clients show %s' % email", True),
        ("'skychimp clients show {}'.format(email)", True),
        ("'run \"skychimp doctor\"'", False),
        ("f'run \"chmod 600 {path}\"'", True),
        ("'run: sqlite3 ' + path", True),
        ("f'run {names} again'", False),
        ("f'{number} emails wait'", False),
        ("f'skychimp {__version__}'", False),
        ("f'the folder skychimp in {path}'", False),
    ],
)
def test_commands_with_values(source: str, is_found: bool) -> None:
    assert bool(list(commands_with_values(source))) == is_found
