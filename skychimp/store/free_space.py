"""Search the parts of an SQLite file that no row uses: free pages, and the gaps between the rows of a page.

The format is described in https://www.sqlite.org/fileformat2.html, sections 1.3 to 1.6.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

_HEADER_SIZES = {2: 12, 5: 12, 10: 8, 13: 8}
"""The size of a page's header by the page's type: interior pages of indexes and tables, and their leaves."""

_PAGES_READ = 1000
"""How many pages to read at once."""


def contains(file: Path, texts: Sequence[bytes]) -> bool:
    """Return whether one of the texts is in free space. The unused end of a long row's last page is not searched.

    Do not call it while this process has the store open: closing the file would drop SQLite's locks on it.
    """
    with file.open("rb") as database:
        header = database.read(100)
        size = int.from_bytes(header[16:18])
        size = 65536 if size == 1 else size
        free = set(_free_pages(database, header, size))
        database.seek(0)
        first = 1
        while pages := database.read(size * _PAGES_READ):
            if any(text in pages for text in texts):
                for start in range(0, len(pages), size):
                    page = pages[start : start + size]
                    if any(text in page for text in texts):
                        number = first + start // size
                        parts = [page] if number in free else _unused_parts(page, 100 if number == 1 else 0)
                        if any(text in part for part in parts for text in texts):
                            return True
            first += _PAGES_READ
    return False


def _free_pages(database: BinaryIO, header: bytes, size: int) -> Iterator[int]:
    """Yield the numbers of the pages on the list of free pages, but for those that hold the list."""
    trunk = int.from_bytes(header[32:36])
    while trunk:
        database.seek((trunk - 1) * size)
        page = database.read(size)
        number = int.from_bytes(page[4:8])
        yield from (int.from_bytes(page[at : at + 4]) for at in range(8, 8 + 4 * number, 4))
        trunk = int.from_bytes(page[:4])


def _unused_parts(page: bytes, start: int) -> Iterator[bytes]:
    """Yield the parts of a page of a table or an index that belong to no row. `start` is where its header begins."""
    header_size = _HEADER_SIZES.get(page[start])
    if header_size is None:
        return
    block, rows, content = (int.from_bytes(page[start + at : start + at + 2]) for at in (1, 3, 5))
    yield page[start + header_size + 2 * rows : content or 65536]
    while block:
        following, length = (int.from_bytes(page[at : at + 2]) for at in (block, block + 2))
        yield page[block : block + length]
        block = following if following > block else 0  # in a damaged page they may form a circle
