"""Write parsed Markdown as text that is easy to read; pure.

Headings and emphasis lose their signs. A link shows its address, and an image its `alt` text. Tables are aligned. Code
stays as it is.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it.tree import SyntaxTreeNode

_PAGE_LINK = re.compile(r"(#|javascript:|$)", re.IGNORECASE)
_RULE = "-" * 40
_COLUMN_SPACE = "  "


class MarkdownText:
    """Writes a tree of Markdown. `in_link` returns an address as it is shown, and `width` how wide a text is."""

    def __init__(self, in_link: Callable[[str], str] = str, width: Callable[[str], int] = len) -> None:
        self._in_link, self._width = in_link, width

    def render(self, tree: "SyntaxTreeNode") -> str:
        """Return the text, without a line end after the last line."""
        return "\n".join(self._blocks(tree.children))

    def _blocks(self, nodes: Iterable["SyntaxTreeNode"]) -> list[str]:
        """Return the lines of blocks, with an empty line between two. In a tight list, there is none."""
        lines: list[str] = []
        is_tight = False
        for node in nodes:
            if lines and not is_tight:
                lines.append("")
            lines += self._block(node)
            is_tight = node.type == "paragraph" and node.hidden
        return lines

    def _block(self, node: "SyntaxTreeNode") -> list[str]:
        if node.type in ("bullet_list", "ordered_list"):
            return self._list(node)
        if node.type == "blockquote":
            return [f"> {line}" for line in self._blocks(node.children)]
        if node.type == "table":
            return self._table(node)
        if node.type in ("fence", "code_block"):
            return node.content.removesuffix("\n").split("\n")
        if node.type == "hr":
            return [_RULE]
        return self._inline(node).split("\n")

    def _list(self, node: "SyntaxTreeNode") -> list[str]:
        lines: list[str] = []
        start = int(node.attrs.get("start", 1))
        for number, item in enumerate(node.children, start):
            bullet = f"{number}. " if node.type == "ordered_list" else "- "
            if lines and not _is_tight(node):
                lines.append("")
            lines += _indented(self._blocks(item.children) or [""], bullet)
        return lines

    def _table(self, node: "SyntaxTreeNode") -> list[str]:
        rows = [[self._inline(cell) for cell in row.children] for part in node.children for row in part.children]
        head = node.children[0].children[0].children
        is_right = ["right" in str(cell.attrs.get("style", "")) for cell in head]
        widths = [max(map(self._width, column)) for column in zip_longest(*rows, fillvalue="")]
        lines = [self._row(row, widths, is_right) for row in rows]
        return [lines[0], _COLUMN_SPACE.join("-" * width for width in widths), *lines[1:]]

    def _row(self, cells: Sequence[str], widths: Sequence[int], is_right: Sequence[bool]) -> str:
        shown = []
        for cell, width, right in zip(cells, widths, is_right, strict=False):
            space = " " * (width - self._width(cell))
            shown.append(space + cell if right else cell + space)
        return _COLUMN_SPACE.join(shown)

    def _inline(self, node: "SyntaxTreeNode") -> str:
        if node.type == "link":
            label, url = "".join(map(self._inline, node.children)), str(node.attrs.get("href", ""))
            return label if node.markup == "autolink" else shown_link(label, url, self._in_link)
        if node.type in ("softbreak", "hardbreak"):
            return "\n"
        return "".join(map(self._inline, node.children)) if node.children else node.content


def shown_link(label: str, url: str, in_link: Callable[[str], str] = str) -> str:
    """Return the text of a link with its address, unless the text is the address or the address means nothing."""
    address = re.sub("^(mailto|tel):", "", url, flags=re.IGNORECASE)
    if _PAGE_LINK.match(url) or label in (url, address):
        return label
    return f"{label} <{in_link(address)}>" if label else f"<{in_link(address)}>"


def _is_tight(node: "SyntaxTreeNode") -> bool:
    return all(block.hidden for item in node.children for block in item.children if block.type == "paragraph")


def _indented(lines: Sequence[str], bullet: str) -> list[str]:
    first, *others = lines
    return [bullet + first, *(line and " " * len(bullet) + line for line in others)]
