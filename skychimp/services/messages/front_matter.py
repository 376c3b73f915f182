"""Read the settings that a Markdown text may begin with: lines `key: value` between two lines `---`; pure."""

import json
import re
from collections.abc import Iterable
from typing import NamedTuple

from skychimp.errors import InvalidValue
from skychimp.text import did_you_mean, shortened
from skychimp.translation import tr

KEYS = ("subject", "digest", "layout", "preheader")

_YAML_BEGIN = re.compile(r"\s*---[ \t]*\n[A-Za-z_][\w-]*:(\s|$)")
_TOML_BEGIN = re.compile(r"\s*\+\+\+[ \t]*\n[A-Za-z_][\w-]* *=")
_LINE = re.compile(r"([A-Za-z_][\w-]*):(?:[ \t]+(.*))?")
_BOOLEANS = {"true": True, "yes": True, "false": False, "no": False}
_HINT = tr("write it as lines KEY: VALUE; for a horizontal line instead, write ***")


class FrontMatter(NamedTuple):
    """Settings of a message. None for those that are not given."""

    subject: str | None = None
    digest: bool | None = None
    layout: str | None = None
    preheader: str | None = None


def split_front_matter(source: str) -> tuple[FrontMatter, str]:
    """Return the front matter of a Markdown text, and the text after it. Raises InvalidValue if it is not valid.

    It begins with a line `---` and a line with a key. A line `---` before anything else is a horizontal rule.
    """
    text = source.replace("\r\n", "\n")
    if _TOML_BEGIN.match(text):
        raise InvalidValue(
            tr("front matter between lines +++ is not supported"), tr("write lines KEY: VALUE between lines ---")
        )
    if not _YAML_BEGIN.match(text):
        return FrontMatter(), source
    lines = text.lstrip().split("\n")
    end = next((number for number, line in enumerate(lines) if number and line.rstrip() in ("---", "...")), None)
    if end is None:
        raise InvalidValue(
            tr("the front matter has no end"), tr("end it with a line ---; for a horizontal line, write ***")
        )
    values = _values(lines[1:end])
    digest = _boolean("digest", values["digest"]) if "digest" in values else None
    settings = FrontMatter(values.get("subject"), digest, values.get("layout"), values.get("preheader"))
    return settings, "\n".join(lines[end + 1 :]).lstrip("\n")


def _values(lines: Iterable[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            raise InvalidValue(tr("invalid line in the front matter: {line}", line=shortened(line)), _HINT)
        key = match[1].lower()
        if key not in KEYS:
            hint = did_you_mean(key, KEYS) or tr(
                "use {keys} or {keys_2}, or remove it", keys=", ".join(KEYS[:-1]), keys_2=KEYS[-1]
            )
            raise InvalidValue(tr("unknown key in the front matter: {match}", match=shortened(match[1])), hint)
        if key in values:
            raise InvalidValue(tr("duplicate key in the front matter: {key}", key=key), tr("remove one of them"))
        values[key] = _unquoted(key, match[2] or "")
    return values


def _unquoted(key: str, value: str) -> str:
    """Return a YAML value of one line, which may be in quotes."""
    if value[:1] == "'" and re.fullmatch(r"'(?:[^']|'')*'", value):
        return value[1:-1].replace("''", "'")
    try:
        text = json.loads(value) if value[:1] == '"' else value
    except ValueError:
        text = None
    if not isinstance(text, str) or value[:1] in ("'", "|", ">"):
        raise InvalidValue(
            tr("invalid value of {key} in the front matter: {value}", key=key, value=shortened(value)),
            tr("write it on one line"),
        )
    return text


def _boolean(key: str, value: str) -> bool:
    if value.lower() not in _BOOLEANS:
        raise InvalidValue(
            tr("invalid value of {key} in the front matter: {value}", key=key, value=shortened(value)),
            tr("use true or false"),
        )
    return _BOOLEANS[value.lower()]
