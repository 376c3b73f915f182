"""Read the links, pictures and words of an email's parts; pure."""

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from lxml import etree

_LINK = re.compile(r"(?:https?|mailto|javascript):[^\s<>\"]+", re.IGNORECASE)
_CLOSING = {")": "(", "]": "["}
_HIDDEN = {"script", "style", "title"}
_INLINE = {"a", "abbr", "b", "big", "code", "em", "font", "i", "s", "small", "span", "strong", "sub", "sup", "u", "wbr"}
"""Elements that do not end a word. Between those of any other kind, readers see a gap."""


class Link(NamedTuple):
    """A link as it is written, and its line, the first of which is 1."""

    url: str
    line: int


class Picture(NamedTuple):
    """A picture. `alt` is None if it has no such text, "" if it is marked as a decoration."""

    src: str
    alt: str | None
    line: int


class ShownPart(NamedTuple):
    """What a reader sees of a part. The text has the same lines as the part."""

    links: list[Link]
    pictures: list[Picture]
    text: str


def read_html(html: str) -> ShownPart:
    """Return what a reader sees of an HTML part."""
    from lxml import etree  # the parser of the standard library takes minutes for some pages

    reader = _Reader()
    parser = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, no_network=True)
    root = etree.fromstring(b"<!DOCTYPE html>" + html.encode("utf-8", "replace"), parser) if html.strip() else None
    if root is not None:
        for event, element in etree.iterwalk(root, events=("start", "end")):
            (reader.begin if event == "start" else reader.end)(element)
    return ShownPart(reader.links, reader.pictures, "".join(reader.pieces))


def read_text(text: str) -> ShownPart:
    """Return what a reader sees of a text part. Links are what mail programs take for one."""
    lines = enumerate(text.split("\n"), 1)
    links = [Link(_without_end(match[0]), number) for number, line in lines for match in _LINK.finditer(line)]
    return ShownPart(links, [], text)


class _Reader:
    """Collects what a reader sees, element by element."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.pictures: list[Picture] = []
        self.pieces: list[str] = []
        self._line = 1

    def begin(self, element: "etree._Element") -> None:
        """Read an element and the text at its beginning."""
        tag, line = element.tag, element.sourceline or self._line
        self._show("\n" * (line - self._line))  # the lines of what is not shown
        if tag in ("a", "area") and "href" in element.attrib:
            self.links.append(Link(element.attrib["href"].strip(), line))
        elif tag == "img":
            alt = element.attrib.get("alt")
            self.pictures.append(Picture(element.attrib.get("src", "").strip(), alt, line))
            self._show(alt or "")
        if tag not in _INLINE:
            self._show(" ")
        if tag not in _HIDDEN:
            self._show(element.text or "")

    def end(self, element: "etree._Element") -> None:
        """Read the text after an element."""
        if element.tag not in _INLINE:
            self._show(" ")
        self._show(element.tail or "")

    def _show(self, text: str) -> None:
        self.pieces.append(text)
        self._line += text.count("\n")


def _without_end(url: str) -> str:
    """Return a link without the punctuation of the sentence that it is in."""
    surplus = {closing: url.count(closing) - url.count(opening) for closing, opening in _CLOSING.items()}
    end = len(url)
    while end and (url[end - 1] in ".,;:!?'*_" or surplus.get(url[end - 1], 0) > 0):
        end -= 1
        if url[end] in surplus:
            surplus[url[end]] -= 1
    return url[:end]
