"""The manual's pages, made from the commands themselves: man(7) macros, one page a command and one for all."""

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

from skychimp import __version__
from skychimp.cli import registry

_HEAD = r""".\" Made by skychimp help --man.
.TH "{title}" "1" "" "Skychimp {version}" "Skychimp"
.nh
.ad l
.SH NAME
{name} \- {line}
"""
_SEE_ALSO = """.SH SEE ALSO
.BR skychimp (1);
skychimp help {topics}
"""


def pages(topics: Iterable[str]) -> dict[str, str]:
    """Each page's file name and text; each tells of the topics, too."""
    texts = {"skychimp.1": _overview()} | {f"skychimp-{name}.1": _page(name) for name in registry.COMMANDS}
    see_also = _SEE_ALSO.format(topics=_plain(", ".join(topics)))
    return {name: f"{text}\n{see_also}" for name, text in texts.items()}


def _overview() -> str:
    root = registry.command_line()
    parts = [_head("skychimp", _first_line(root)), ".SH SYNOPSIS", *_synopsis(root, "skychimp"), ".SH COMMANDS"]
    for name, (_, line) in registry.COMMANDS.items():
        parts += [".TP", rf".BR skychimp\-{_plain(name)} (1)", _text(line)]
    return "\n".join([*parts, ".SH OPTIONS", *_options(root, "skychimp"), *_examples(root)])


def _page(name: str) -> str:
    command = registry.load(name)
    called = f"skychimp {name}"
    parts = [_head(f"skychimp-{name}", registry.COMMANDS[name][1])]
    subcommands = getattr(command, "commands", None)
    if subcommands is None:
        parts += [".SH SYNOPSIS", *_synopsis(command, called), ".SH DESCRIPTION", *_described(command, called)]
        return "\n".join([*parts, *_examples(command)])
    parts.append(".SH SYNOPSIS")
    for each, subcommand in subcommands.items():
        parts += [*_synopsis(subcommand, f"{called} {each}"), ".br"]
    parts.append(".SH COMMANDS")
    for each, subcommand in subcommands.items():
        parts += [f".SS {_plain(f'{name} {each}')}", *_described(subcommand, f"{called} {each}")]
        parts += _examples(subcommand, ".PP")
    return "\n".join(parts)


def _head(name: str, line: str) -> str:
    return _HEAD.format(title=_plain(name.upper()), version=__version__, name=_plain(name), line=_plain(line)).rstrip()


def _first_line(command: Any) -> str:
    return inspect.cleandoc(command.help or "").partition("\n")[0]


def _synopsis(command: Any, called: str) -> list[str]:
    with _context(command, called) as context:
        pieces = command.collect_usage_pieces(context)
    return [rf"\fB{_plain(called)}\fR {_plain(' '.join(pieces))}"]


def _described(command: Any, called: str) -> list[str]:
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    text = [line for paragraph in paragraphs for line in (".PP", _text(paragraph))]
    return [*text[1:], *_options(command, called)]


def _options(command: Any, called: str) -> Iterator[str]:
    with _context(command, called) as context:
        records = [param.get_help_record(context) for param in command.get_params(context)]
    for names, about in filter(None, records):
        yield from (".TP", rf"\fB{_plain(names)}\fR", _text(about) or r"\&")


def _examples(command: Any, heading: str = ".SH EXAMPLES") -> Iterator[str]:
    if command.epilog:
        yield from (heading, ".nf", *(rf"\&$ {_plain(line)}" for line in command.epilog.splitlines()), ".fi")


def _context(command: Any, called: str) -> Any:
    return command.context_class(command, info_name=called, help_option_names=["-h", "--help"])


def _text(text: str) -> str:
    """A paragraph, with each line safe from being taken for a request."""
    return "\n".join(re.sub(r"^([.'])", r"\\&\1", _plain(line.strip())) for line in text.splitlines() if line.strip())


def _plain(text: str) -> str:
    """A text as roff shows it: no escape, and each hyphen one that can be copied."""
    return text.replace("\\", r"\e").replace("-", r"\-")
