"""Decode, re-encode and store the images of posts: in a folder beside the store, or in a table on a server.

A file is named after the hash of its content, so that the same image is stored once. A file that no post uses is
harmless and is removed later; a post without its file must not exist. Therefore a file is written before its row is
committed, and removed only when no row names it. Both happen inside a write transaction, so that no other process can
start to use an image that is being removed.
"""

import contextlib
import errno
import hashlib
import io
import os
import re
import stat
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from skychimp import files
from skychimp.errors import InvalidValue, StoreFailed
from skychimp.models import tables
from skychimp.services.blog import image_table
from skychimp.store.database import Store
from skychimp.store.postgres.server import PostgresStore
from skychimp.store.schema import is_on_server, real_path, store_path
from skychimp.store.sqlite import SqliteStore
from skychimp.translation import Phrase, tr

LARGEST_FILE = 20_000_000
"""Bytes of a file that is accepted."""
MOST_PIXELS = 50_000_000
"""Pixels of an image that is decoded."""
LONGEST_DECODED_SIDE = 65_535
"""Pixels of a side of an image that is decoded, which is the most that a JPEG can have."""
MOST_SCANNED_PIXELS = 20 * MOST_PIXELS
"""Pixels times the scans of a progressive JPEG. Each scan costs as much as decoding the whole image."""
LONGEST_SIDE = 2_000
"""Pixels of a stored image; a larger one is scaled down."""

_FILE_NAME = re.compile(r"[0-9a-f]{32}\.(png|jpg|webp)")
_DRAFT_NAME = re.compile(rf"\.{_FILE_NAME.pattern}\.[0-9a-f]{{8}}")
_STORED_AS = {"PNG": "PNG", "JPEG": "JPEG", "WEBP": "WEBP", "GIF": "PNG"}
_ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "PNG": ("png", {"optimize": True}),
    "JPEG": ("jpg", {"quality": 85, "optimize": True, "progressive": True}),
    "WEBP": ("webp", {"quality": 85}),
}
"""The suffix and the options of each stored format."""

Pixel = tuple[int, int, int] | None
"""Red, green and blue; None is transparent."""


class Image(NamedTuple):
    """A re-encoded image: the name of its file, and the file's content."""

    name: str
    data: bytes


def reencode(raw: bytes) -> Image:
    """Return the image of a PNG, JPEG, WebP or GIF file, upright and without metadata.

    An animation is reduced to its first frame. Raises InvalidValue if the file is not an image or is too large.
    """
    with _decoding(raw):
        data, suffix = _reencoded(raw)
    return Image(f"{_hash(data)}.{suffix}", data)


def media_type(raw: bytes) -> str:
    """Return the type of a PNG, JPEG, WebP or GIF file, such as `image/png`.

    Raises InvalidValue if the file is not an image or is too large, as `reencode` does.
    """
    import PIL.Image

    with _decoding(raw), PIL.Image.open(io.BytesIO(raw), formats=list(_STORED_AS)) as opened:
        if problem := _decoding_problem(opened.size, raw if opened.format == "JPEG" else b""):
            raise InvalidValue(*problem)
        found = PIL.Image.MIME[opened.format or ""]
        opened.verify()
        return found


@contextlib.contextmanager
def _decoding(raw: bytes) -> Iterator[None]:
    """Raise InvalidValue for everything that goes wrong with an image in the block, and if its file is too large."""
    if len(raw) > LARGEST_FILE:
        raise InvalidValue(
            tr("the image is larger than {largest_file} MB", largest_file=LARGEST_FILE // 1_000_000),
            tr("use a smaller image"),
        )
    import PIL.Image

    try:
        with _pixel_limit():
            yield
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        millions = MOST_PIXELS // 1_000_000
        raise InvalidValue(
            tr("the image has more than {millions} million pixels", millions=millions), tr("use a smaller image")
        ) from None
    except InvalidValue:
        raise
    except Exception:  # a decoder may raise anything if its input is damaged
        raise InvalidValue(tr("the file is not a valid image"), tr("use a PNG, JPEG, WebP or GIF file")) from None


def save(store: Store, image: Image) -> None:
    """Write an image to the folder, completely or not at all. Call it inside a write transaction.

    Raises StoreFailed.
    """
    if isinstance(store, PostgresStore):
        image_table.save(store, image.name, image.data)
        return
    path = image_path(store, image.name)
    try:
        files.make_folder(path.parent)
        with files.open_folder(path.parent) as folder:
            if not _is_regular(image.name, folder):
                files.write_file(Path(image.name), image.data, dir_fd=folder)
            os.fsync(folder)  # also after a kill between the rename and its sync
        files.sync_folder(path.parent.parent)
    except files.UnsafePlace as error:
        raise StoreFailed(tr("cannot write {path}: {error}", path=path, error=error), error.remedy) from None
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = (
            tr("free some disk space, then try again")
            if is_full
            else tr("check the permissions of {parent}", parent=path.parent)
        )
        raise StoreFailed(tr("cannot write {path}: {strerror}", path=path, strerror=error.strerror), hint) from None


def save_new(url: str, db: Connection, new: Iterable[Image]) -> None:
    """Write the images of a store that is being created, before it is there. `db` is its transaction on a server."""
    for image in new:
        if is_on_server(url):
            image_table.add(db, image.name, image.data)
        else:
            save(SqliteStore(real_path(store_path(url))), image)


def remove_unused(store: Store) -> None:
    """Remove our files that no post uses. Skip what cannot be removed now, and what may be a file of the user.

    A file is ours if it is named after the hash of its content, or is the draft of such a file.
    """
    if isinstance(store, PostgresStore):
        with contextlib.suppress(StoreFailed), store.write() as db:
            image_table.remove_unused(db.connection())
        return
    with (
        contextlib.suppress(OSError, StoreFailed),
        files.open_folder(image_folder(store)) as folder,
        store.write() as db,
    ):
        used = set(db.execute(select(tables.post.c.image).distinct()).scalars())
        for name in os.listdir(folder):
            if name not in used and _is_ours(name, folder):
                os.unlink(name, dir_fd=folder)


def read(store: Store, name: str) -> bytes:
    """Return the content of a stored image. Raises StoreFailed for an invalid name, and OSError."""
    _require_valid(name)
    if isinstance(store, PostgresStore):
        data = image_table.read(store, name)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return data
    with files.open_folder(image_path(store, name).parent) as folder:
        return _read(name, folder)


def find(store: Store, name: str) -> bytes | None:
    """Return the content of a stored image, None if it cannot be read. Raises StoreFailed for an invalid name."""
    try:
        return read(store, name)
    except OSError:
        return None


def image_path(store: Store, name: str) -> Path:
    """Return the path of a stored image: a PNG, JPEG or WebP file, as its suffix says.

    Raises StoreFailed for a name that we never give, such as `../x` in a store that somebody else made.
    """
    _require_valid(name)
    return image_folder(store) / name


def image_folder(store: Store) -> Path:
    """Return the folder that holds the images of a store."""
    return store.path.with_name(f"{store.path.name}.images")


def read_pixels(data: bytes, width: int, height: int) -> list[list[Pixel]]:
    """Return the rows of a stored image, scaled down to `width` and `height`. Raises OSError if it is damaged."""
    import PIL.Image

    with _pixel_limit(), PIL.Image.open(io.BytesIO(data), formats=list(_ENCODERS)) as opened:
        if problem := _decoding_problem(opened.size, data if opened.format == "JPEG" else b""):
            raise OSError(problem[0])
        small = opened.convert("RGBA")
        small.thumbnail((width, height))
        data = small.tobytes()
        pixels = [_pixel(data[start : start + 4]) for start in range(0, len(data), 4)]
        return [pixels[start : start + small.width] for start in range(0, len(pixels), small.width)]


def _require_valid(name: str) -> None:
    if not _FILE_NAME.fullmatch(name):
        raise StoreFailed(
            tr("invalid image name {name!r} in the store", name=name), tr("set the post's image again with --image")
        )


def _read(name: str, folder: int) -> bytes:
    """Return the content of a file in an open folder. Raises OSError, also if it is larger than we store."""
    with os.fdopen(files.open_file(name, dir_fd=folder), "rb") as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), name)
    return data


def _is_regular(name: str, folder: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    return False


def _is_ours(name: str, folder: int) -> bool:
    if not _FILE_NAME.fullmatch(name):
        return bool(_DRAFT_NAME.fullmatch(name)) and _is_regular(name, folder)
    with contextlib.suppress(OSError):
        return _hash(_read(name, folder)) == name.partition(".")[0]
    return False


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _reencoded(raw: bytes) -> tuple[bytes, str]:
    """Return the content and the suffix of the stored file."""
    import PIL.Image
    import PIL.ImageOps

    with PIL.Image.open(io.BytesIO(raw), formats=list(_STORED_AS)) as opened:
        stored_format = _STORED_AS[opened.format or ""]
        if problem := _decoding_problem(opened.size, raw if stored_format == "JPEG" else b""):
            raise InvalidValue(*problem)
        opened.draft(None, (LONGEST_SIDE, LONGEST_SIDE))  # decode a large JPEG at a fraction of its size
        image = PIL.ImageOps.exif_transpose(opened)
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        image.info.clear()
        suffix, options = _ENCODERS[stored_format]
        encoded = io.BytesIO()
        image.save(encoded, stored_format, **options)
        return encoded.getvalue(), suffix


def _decoding_problem(size: tuple[int, int], jpeg: bytes) -> tuple[Phrase, Phrase] | None:
    """Return why decoding an image would take too long, with a hint, or None. `jpeg` is its content if it is one."""
    width, height = size
    if max(size) > LONGEST_DECODED_SIDE:
        return tr(
            "the image is longer than {longest_decoded_side:,} pixels", longest_decoded_side=LONGEST_DECODED_SIDE
        ), tr("use a smaller image")
    scans = jpeg.count(b"\xff\xda")  # these bytes begin a scan, and do not occur in its data
    if scans * width * height > MOST_SCANNED_PIXELS:
        return tr("the image has {scans:,} scans", scans=scans), tr("save it as a JPEG that is not progressive")
    return None


def _pixel(rgba: bytes) -> Pixel:
    red, green, blue, alpha = rgba
    return (red, green, blue) if alpha >= 128 else None


@contextlib.contextmanager
def _pixel_limit() -> Iterator[None]:
    """Let Pillow refuse an image with too many pixels before it decodes it."""
    import PIL.Image

    PIL.Image.MAX_IMAGE_PIXELS = MOST_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        yield
