"""Test that words that confused readers do not come back: in help, messages, docstrings, topics and README."""

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import skychimp
from skychimp.cli import registry

ROOT = Path(skychimp.__file__).parent
PROJECT = ROOT.parent
MODULES = sorted(ROOT.rglob("*.py"))
DOCUMENTS = sorted(
    [
        PROJECT / "README.md",
        PROJECT / "skychimp.example.toml",
        *(path for suffix in ("md", "html", "txt") for path in ROOT.rglob(f"*.{suffix}")),
    ]
)

NOT_HERE = {
    r"mend(s|ed|ing)?": "fix",
    r"letters?": "email",
    r"e-mails?": "email",
    r"whom": "who, or the noun: recipient, client",
    r"leaves with|left with": "exits with status",
    r"as often as (needed|wanted|you like)": "(repeatable)",
    r"so many": "N, or the number",
    r"for so long": "for N days, or the duration",
    r"nobody knows": "unknown",
    r"heed(s|ed|ing)?": "apply",
    r"afresh|anew": "again",
    r"by then|by and by": "by that time, later",
    r"what does it say": "the message has no body",
    r"say who|say which|say it": "use an option, or set a setting",
    r"not done": "refusing to ..., cancelled",
    r"nothing is kept": "no record of ...",
    r"nothing lost|nothing twice": "a promise that is true",
    r"is (it |the store )?sound|not sound|soundness": "valid, damaged, integrity",
    r"soul": "person, client",
    r"lies": "is, is stored",
    r"let go of|let go on|lets? it go": "release, close, resume",
    r"gone out|went out|goes out": "was sent",
    r"the DESIGN|DESIGN|the design|the contract": "the rule itself: the document is not in the repository",
}
"""Regular expressions of words, and what to write instead."""

NOT_IN_MESSAGES = {
    r"can't|won't|doesn't|isn't|aren't|don't": "cannot, will not, does not, is not, are not, do not",
    r"give --[\w-]+": "use --option",
    r"see (it|them): skychimp": 'run "skychimp ..."',
    r"^there is no": "NOUN not found, no NOUN",
}

ALLOWED = (
    r"[Cc]apital letters|letters and digits|letters, digits|of all Unicode letters|\bletters (A|a)\b",
    r"newsletters?",
    r"^e-mail( address)?$",  # column names in the files of other tools
    r"^letters$",  # a JSON field of `demo`
)
"""What contains such a word and is fine."""


class Passage(NamedTuple):
    """A text, and where it is."""

    place: str
    text: str
    is_message: bool = False


def findings(passages: Iterable[Passage], words: dict[str, str]) -> list[str]:
    """Return what to change: the place, the word and what to write instead."""
    pattern = re.compile("|".join(rf"(?<![\w-])({word})(?![\w-])" for word in words), re.IGNORECASE)
    found = []
    for place, text, _ in passages:
        if not pattern.search(text):
            continue
        for match in pattern.finditer(re.sub("|".join(ALLOWED), "", text)):
            instead = next(new for word, new in words.items() if re.fullmatch(word, match[0], re.IGNORECASE))
            found.append(f'{place}: "{match[0]}" (write: {instead}) in "{" ".join(text.split())[:100]}"')
    return found


@cache
def source_passages() -> list[Passage]:
    """Return the messages, the docstrings and the comments of all modules. A message is any other string constant."""
    return [passage for path in MODULES for passage in (*string_passages(path), *comment_passages(path))]


def string_passages(path: Path) -> Iterator[Passage]:
    """Yield the string constants of a module."""
    name, docstrings = str(path.relative_to(PROJECT)), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):  # parents come first
        if isinstance(node, ast.Expr):
            docstrings.add(node.value)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield Passage(f"{name}:{node.lineno}", node.value, is_message=node not in docstrings)


def comment_passages(path: Path) -> Iterator[Passage]:
    """Yield the comments of a module."""
    name, source = str(path.relative_to(PROJECT)), path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Passage(f"{name}:{token.start[0]}", token.string)


def help_passages() -> Iterator[Passage]:
    """Yield the help of every command and of every option."""
    commands = {"skychimp": registry.command_line()}
    for name in registry.COMMANDS:
        commands[name] = registry.load_command(name)
        commands |= {f"{name} {sub}": each for sub, each in getattr(commands[name], "commands", {}).items()}
    for name, command in commands.items():
        yield Passage(name, command.help or "")
        yield from (Passage(f"{name} {param.name}", param.help or "") for param in command.params)


def document_passages() -> Iterator[Passage]:
    """Yield the lines of all documents and templates."""
    for path in DOCUMENTS:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            yield Passage(f"{path.relative_to(PROJECT)}:{number}", line)


def test_words_of_the_source() -> None:
    assert findings(source_passages(), NOT_HERE) == []


def test_words_of_the_messages() -> None:
    messages = [passage for passage in source_passages() if passage.is_message]
    assert len(messages) > 1_000
    assert findings(messages, NOT_IN_MESSAGES) == []


def test_words_of_the_documents() -> None:
    assert findings(document_passages(), NOT_HERE) == []


def test_words_of_the_help() -> None:
    assert not findings(help_passages(), NOT_HERE | NOT_IN_MESSAGES)


def test_help_lines_are_sentences() -> None:
    lines = [(passage.place, " ".join(passage.text.partition("\n\n")[0].split())) for passage in help_passages()]
    assert not [line for line in lines if line[1] and not re.fullmatch(r"[A-Z].*[.]", line[1])]


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("What to mend.", True),
        ("Recommended. Amend it.", False),
        ("Two letters wait.", True),
        ("A newsletter in capital letters", False),
        ("It leaves with 75.", True),
        ("See the contract.", True),
        ("An e-mail", True),
        ("Sent anew", True),
    ],
)
def test_findings(text: str, is_found: bool) -> None:
    assert bool(findings([Passage("here", text)], NOT_HERE)) == is_found
