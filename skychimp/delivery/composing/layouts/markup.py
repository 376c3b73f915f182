"""Split HTML into tags, text and what is neither, and check that its tags are nested properly; pure.

It is split as the HTML standard says (section 13.2.5), but for what no email needs, which is refused. So the check
knows how deeply the elements of a parsed document are nested, and that no text moves to another place.
"""

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

from skychimp.errors import InvalidValue
from skychimp.translation import Phrase, tr

MAX_DEPTH = 64
"""How deeply elements can be nested. A parser of HTML calls itself for each level."""

_RAW = "style|script|title|textarea"
_MARKUP = re.compile(
    r"(?P<comment><!--(?:-?>|.*?(?:--!?>|\Z)))"
    rf"|(?P<raw><(?:{_RAW})(?=[\s/>])(?:\"[^\"]*(?:\"|\Z)|'[^']*(?:'|\Z)|[^'\">])*+(?:>|\Z))"
    r"|(?P<tag></?[a-z](?:\"[^\"]*(?:\"|\Z)|'[^']*(?:'|\Z)|[^'\">])*+(?:>|\Z))"
    r"|(?P<other><[!/?][^>]*(?:>|\Z))",
    re.DOTALL | re.IGNORECASE,
)
_NAME = re.compile(r"</?([^\s/>]*)")
_ATTRIBUTE = re.compile(r"""([^\s"'<>/=]+)(?:\s*=\s*("[^"]*"|'[^']*'|[^\s"'=<>`]+))?|(\S)""")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VOID = _names("area base br col embed hr img input link meta param source track wbr basefont bgsound frame keygen")
_NEED_NO_END = _names("p li dt dd tr td th thead tbody tfoot option optgroup html head body colgroup caption")
_NEED_NO_START = _names("html head body p")
_REFUSED = _names(
    "svg math template select frameset iframe noembed noframes noscript object applet marquee plaintext xmp image"
)
"""Elements whose content is read by other rules, and which mail programs do not show or do not need."""
_ROWS = _names("table thead tbody tfoot tr")
_IN_ROWS = _names("caption colgroup col thead tbody tfoot tr td th style script")
_CELLS = _names("td th")
_SECTIONS = _names("thead tbody tfoot")


class NotNested(InvalidValue):
    """HTML that a parser would change. The message has the line."""


class Kind(Enum):
    """What a part of HTML is. The content of an element such as `style`, where nothing is a tag, is RAW."""

    TEXT = auto()
    TAG = auto()
    RAW = auto()
    OTHER = auto()
    """A comment or a document type."""


class Part(NamedTuple):
    """A part of HTML and its position."""

    kind: Kind
    text: str
    start: int


def split(html: str) -> Iterator[Part]:
    """Yield the parts of HTML, which make up the whole. It takes time in proportion to the length."""
    position = 0
    while match := _MARKUP.search(html, position):
        if match.start() > position:
            yield Part(Kind.TEXT, html[position : match.start()], position)
        position = match.end()
        if match["raw"] is None:
            yield Part(Kind.OTHER if match["tag"] is None else Kind.TAG, match[0], match.start())
            continue
        yield Part(Kind.TAG, match[0], match.start())
        end = re.compile(rf"</{_tag_name(match[0])}(?=[\s/>])|\Z", re.IGNORECASE).search(html, position)
        assert end is not None
        if end.start() > position:
            yield Part(Kind.RAW, html[position : end.start()], position)
        position = end.start()
    if position < len(html):
        yield Part(Kind.TEXT, html[position:], position)


def require_nested(html: str, mark: str, noun: str) -> None:
    """Raise InvalidValue unless each element is closed where the one around it is, and a browser moves nothing.

    `mark` is what the words begin with that stand for expressions. Such a word may be part of a text or of an
    attribute's value. `noun` names the HTML in the error.
    """
    nesting = _Nesting(mark)
    for part in split(html):
        reason = nesting.problem(part)
        if reason is not None:
            raise not_nested(html, part.start, reason, noun)
    if unclosed := nesting.unclosed:
        raise not_nested(html, unclosed[1], tr("<{tag}> is not closed", tag=unclosed[0]), noun)


def not_nested(html: str, position: int, reason: Phrase, noun: str) -> NotNested:
    """Return the error that HTML cannot be inlined because of what is at a position."""
    line = html.count("\n", 0, position) + 1
    message = tr("the CSS of the {noun} cannot be inlined: line {line}: {reason}", noun=noun, line=line, reason=reason)
    return NotNested(message, tr('fix it, or write <style data-css-inline="ignore"> to leave the CSS where it is'))


def tag_names(html: str) -> Iterator[str]:
    """Yield the names of the tags in HTML, in lower case."""
    return (_tag_name(part.text) for part in split(html) if part.kind == Kind.TAG)


class _Nesting:
    """The elements that are open at a place of HTML, with the positions of their tags."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._open: list[tuple[str, int]] = []

    @property
    def unclosed(self) -> tuple[str, int] | None:
        """The first open element that needs an end tag."""
        return next((each for each in self._open if each[0] not in _NEED_NO_END), None)

    def problem(self, part: Part) -> Phrase | None:
        """Take the next part. Return what is wrong with it, or None."""
        if part.kind == Kind.TEXT:
            return tr("text between the cells of a table") if self._top in _ROWS and part.text.strip() else None
        if part.kind == Kind.RAW:
            return tr("<!-- in a script") if self._top == "script" and "<!--" in part.text else None
        if part.kind == Kind.OTHER:
            return None
        if not part.text.endswith(">"):
            return tr("a tag has no end")
        name = _tag_name(part.text)
        return self._end(name) if part.text.startswith("</") else self._start(name, part)

    @property
    def _top(self) -> str:
        return self._open[-1][0] if self._open else ""

    def _start(self, name: str, part: Part) -> Phrase | None:
        if name in _REFUSED:
            return tr("<{tag}> cannot be used", tag=name)
        for match in _ATTRIBUTE.finditer(part.text, 1 + len(name), len(part.text) - 1):
            if self._mark in (match[1] or ""):
                return tr("an expression in the tag <{tag}> must be in the value of an attribute, in quotes", tag=name)
        self._close_implied(name)
        if self._top in _ROWS and name not in _IN_ROWS:
            return tr("<{tag}> between the cells of a table", tag=name)
        if name not in _VOID:
            self._open.append((name, part.start))
        too_deep = len(self._open) > MAX_DEPTH
        return tr("more than {max_depth} elements inside each other", max_depth=MAX_DEPTH) if too_deep else None

    def _close_implied(self, name: str) -> None:
        """Close the elements that a start tag closes."""
        if name in _CELLS and self._top in _CELLS:
            self._open.pop()
        elif name == "tr" or name in _SECTIONS:
            closed = _CELLS | {"tr"} | (_SECTIONS if name in _SECTIONS else frozenset())
            while self._top in closed:
                self._open.pop()
        elif name == self._top and name in _NEED_NO_END:
            self._open.pop()

    def _end(self, name: str) -> Phrase | None:
        if name in _VOID:
            return None
        if name in _NEED_NO_START and all(name != opened for opened, _ in self._open):
            return None
        while self._open and self._top != name and self._top in _NEED_NO_END:
            self._open.pop()
        if self._top == name:
            self._open.pop()
            return None
        if not self._open:
            return tr("</{tag}> closes nothing", tag=name)
        return tr("</{tag}> comes before the end of <{open_tag}>", tag=name, open_tag=self._top)


def _tag_name(tag: str) -> str:
    match = _NAME.match(tag)
    return match[1].lower() if match else ""
