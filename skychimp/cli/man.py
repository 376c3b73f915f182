"""Write the man pages: one per command and one for all, from the commands' own help.

The pages use the macros of man(7).
"""

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

from skychimp import __version__, shell
from skychimp.cli import registry
from skychimp.cli.help_pages import help_record, leaves
from skychimp.translation import Phrase, looked_up, tr, translated

_HEADER = r""".TH "{title}" "1" "" "Skychimp {version}" "Skychimp"
.nh
.ad l
.SH {heading}
{name} \- {summary}
"""
_SEE_ALSO = """.SH {heading}
.BR skychimp (1);
skychimp help {topics}
"""
_SYNOPSIS, _COMMANDS, _EXAMPLES = tr("SYNOPSIS"), tr("COMMANDS"), tr("EXAMPLES")


def man_pages(topics: Iterable[str]) -> dict[str, str]:
    """Return the text of each man page by its file name. Each page refers to the help topics."""
    pages = {"skychimp.1": _overview_page()} | {f"skychimp-{name}.1": _command_page(name) for name in registry.COMMANDS}
    see_also = _SEE_ALSO.format(heading=translated(tr("SEE ALSO")), topics=_escape(", ".join(topics)))
    return {name: f"{page}\n{see_also}" for name, page in pages.items()}


def _overview_page() -> str:
    root = registry.command_line()
    synopsis = (_heading(_SYNOPSIS), *_synopsis(root, "skychimp"))
    parts = [_header("skychimp", _first_line(root)), *synopsis, _heading(_COMMANDS)]
    for name, info in registry.COMMANDS.items():
        parts += [".TP", rf".BR skychimp\-{_escape(name)} (1)", _paragraph(looked_up(info.summary))]
    parts += [_heading(tr("OPTIONS")), *_options(root, "skychimp")]
    return "\n".join([*parts, *_examples(root, _heading(_EXAMPLES))])


def _command_page(name: str) -> str:
    command = registry.load_command(name)
    path = shell.command(name)
    header = _header(f"skychimp-{name}", looked_up(registry.COMMANDS[name].summary))
    if hasattr(command, "commands"):
        body = _group_body(name, path, leaves(command))
    else:
        description = (_heading(tr("DESCRIPTION")), *_description(command, path))
        body = [_heading(_SYNOPSIS), *_synopsis(command, path), *description]
    return "\n".join([header, *body, *_examples(command, _heading(_EXAMPLES))])


def _group_body(name: str, path: str, commands: dict[str, Any]) -> list[str]:
    parts = [_heading(_SYNOPSIS)]
    for subname, command in commands.items():
        parts += [*_synopsis(command, f"{path} {subname}"), ".br"]
    parts.append(_heading(_COMMANDS))
    for subname, command in commands.items():
        parts += [f".SS {_escape(f'{name} {subname}')}", *_description(command, f"{path} {subname}")]
        parts += _examples(command, ".PP")
    return parts


def _header(name: str, summary: str) -> str:
    header = _HEADER.format(
        title=_escape(name.upper()),
        version=__version__,
        heading=translated(tr("NAME")),
        name=_escape(name),
        summary=_escape(summary),
    )
    return header.rstrip()


def _heading(title: Phrase) -> str:
    return f".SH {translated(title)}"


def _first_line(command: Any) -> str:
    return inspect.cleandoc(command.help or "").partition("\n")[0]


def _synopsis(command: Any, path: str) -> list[str]:
    with _context(command, path) as context:
        pieces = command.collect_usage_pieces(context)
    return [rf"\fB{_escape(path)}\fR {_escape(' '.join(pieces))}"]


def _description(command: Any, path: str) -> list[str]:
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    lines = [line for paragraph in paragraphs for line in (".PP", _paragraph(paragraph))]
    return [*lines[1:], *_options(command, path)]


def _options(command: Any, path: str) -> Iterator[str]:
    with _context(command, path) as context:
        records = [help_record(param, context) for param in command.get_params(context)]
    for names, text in filter(None, records):
        yield from (".TP", rf"\fB{_escape(names)}\fR", _paragraph(text) or r"\&")


def _examples(command: Any, heading: str) -> Iterator[str]:
    if command.epilog:
        yield from (heading, ".nf", *(rf"\&$ {_escape(line)}" for line in command.epilog.splitlines()), ".fi")


def _context(command: Any, path: str) -> Any:
    return command.context_class(command, info_name=path, help_option_names=["-h", "--help"])


def _paragraph(text: str) -> str:
    """Return a paragraph in which no line is taken for a request."""
    lines = [_escape(line.strip()) for line in text.splitlines() if line.strip()]
    return "\n".join(re.sub(r"^([.'])", r"\\&\1", line) for line in lines)


def _escape(text: str) -> str:
    """Return a text as roff shows it unchanged, with hyphens that can be copied."""
    return text.replace("\\", r"\e").replace("-", r"\-")
