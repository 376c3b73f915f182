"""Find the local pictures in an HTML part, and link them to what takes their place; pure."""

import re
from collections.abc import Mapping
from html import escape, unescape
from urllib.parse import unquote

_IMAGE = re.compile(r"""(<img\b[^<>]*?\ssrc\s*=\s*)("[^"<>]*"|'[^'<>]*')""", re.IGNORECASE)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//|#|$", re.IGNORECASE)
"""How the address of a picture begins that is not a file beside the message: with a scheme, such as `https:`."""


def local_pictures(html: str) -> list[str]:
    """Return the names of the local files in the `<img>` tags of a template, each once.

    An address with an expression, such as `{{ client.fields.photo }}`, is none.
    """
    found = (_local_name(match[2]) for match in _IMAGE.finditer(html))
    return list(dict.fromkeys(name for name in found if name is not None))


def link_pictures(html: str, urls: Mapping[str, str]) -> str:
    """Return a template with these addresses in place of local files, which are given by their names."""

    def linked(match: re.Match[str]) -> str:
        url = urls.get(_local_name(match[2]) or "")
        return match[0] if url is None else f'{match[1]}"{escape(url)}"'

    return _IMAGE.sub(linked, html) if urls else html


def _local_name(quoted: str) -> str | None:
    source = unescape(quoted[1:-1].strip())
    if "{{" in source or "{%" in source or _ELSEWHERE.match(source):
        return None
    return unquote(source)
