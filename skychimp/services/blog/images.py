"""Images of posts: decoded and made anew, then kept in a folder beside the store.

A file's name is the hash of its content, so that the same image is kept once. A file without a post does no harm, and
is swept away; a post without its file must never be. So the file is there before its row is committed, and goes only
once no row names it; both happen inside a transaction that writes, so that nobody takes up an image that is going.
"""

import contextlib
import hashlib
import io
import os
import re
import secrets
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import select

from skychimp.errors import InvalidValue, StoreFailed
from skychimp.models import Post
from skychimp.store.database import Store

LARGEST_FILE = 20_000_000
"""Bytes that are looked at."""
MOST_PIXELS = 50_000_000
"""Pixels that are decoded."""
LONGEST_SIDE = 2_000
"""Pixels that are kept; a larger image is made smaller."""

_NAME = re.compile(r"[0-9a-f]{32}\.(png|jpg|webp)")
_KEPT_AS = {"PNG": "PNG", "JPEG": "JPEG", "WEBP": "WEBP", "GIF": "PNG"}
_SAVED: dict[str, tuple[str, dict[str, Any]]] = {
    "PNG": ("png", {"optimize": True}),
    "JPEG": ("jpg", {"quality": 85, "optimize": True, "progressive": True}),
    "WEBP": ("webp", {"quality": 85}),
}

Pixel = tuple[int, int, int] | None
"""Red, green and blue; None is transparent."""


class Image(NamedTuple):
    """An image as it is kept: its file's name, and the file."""

    name: str
    data: bytes


def made_anew(raw: bytes) -> Image:
    """The image in a PNG, JPEG, WebP or GIF file (of several frames the first), upright and without its metadata.

    Raises InvalidValue for what is none, or too large.
    """
    if len(raw) > LARGEST_FILE:
        raise InvalidValue(f"the image has more than {LARGEST_FILE // 1_000_000} MB", "make it smaller")
    import PIL.Image
    import PIL.ImageOps

    try:
        with _no_bombs(), PIL.Image.open(io.BytesIO(raw), formats=list(_KEPT_AS)) as opened:
            kind = _KEPT_AS[opened.format or ""]
            opened.draft(None, (LONGEST_SIDE, LONGEST_SIDE))  # a large JPEG is decoded in part only
            image = PIL.ImageOps.exif_transpose(opened)
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
            image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            image.info.clear()
            suffix, how = _SAVED[kind]
            file = io.BytesIO()
            image.save(file, kind, **how)
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        millions = MOST_PIXELS // 1_000_000
        raise InvalidValue(f"the image has more than {millions} million pixels", "make it smaller") from None
    except Exception:  # a decoder that is fed with anything may raise anything
        raise InvalidValue("that is no image", "give a PNG, JPEG, WebP or GIF file") from None
    data = file.getvalue()
    return Image(f"{hashlib.blake2b(data, digest_size=16).hexdigest()}.{suffix}", data)


def keep(store: Store, image: Image) -> None:
    """Put an image into the folder, whole or not at all; a part of the caller's transaction. Raises StoreFailed."""
    place = path(store, image.name)
    draft = place.with_name(f".{secrets.token_hex(8)}")
    try:
        place.parent.mkdir(mode=0o700, exist_ok=True)
        if not place.exists():
            _write(draft, image.data)
            draft.rename(place)
        _sync(place.parent)
        _sync(place.parent.parent)
    except OSError as error:
        raise StoreFailed(
            f"the image can't be kept in {place.parent}: {error.strerror}", "nothing was changed"
        ) from None


def sweep(store: Store) -> None:
    """Remove the files that no post names, as far as that can be done now."""
    if not folder(store).is_dir():
        return
    with contextlib.suppress(OSError, StoreFailed), store.write() as db:
        used = set(db.execute(select(Post.__table__.c.image).distinct()).scalars())
        for file in folder(store).iterdir():
            if file.name not in used:
                file.unlink()


def path(store: Store, name: str) -> Path:
    """Where an image lies. Raises StoreFailed for a name that can't be ours, as in a store that somebody made."""
    if not _NAME.fullmatch(name):
        raise StoreFailed("the store names an image that can't be one", "give the post its image anew: --image FILE")
    return folder(store) / name


def folder(store: Store) -> Path:
    return store.path.with_name(f"{store.path.name}.images")


def pixels(file: Path, width: int, height: int) -> list[list[Pixel]]:
    """The rows of a kept image, made small enough for `width` and `height`. Raises OSError where it can't be read."""
    import PIL.Image

    with _no_bombs(), PIL.Image.open(file, formats=list(_SAVED)) as opened:
        small = opened.convert("RGBA")
        small.thumbnail((width, height))
        flat = small.tobytes()
        seen = [_pixel(flat[start : start + 4]) for start in range(0, len(flat), 4)]
        return [seen[start : start + small.width] for start in range(0, len(seen), small.width)]


def _pixel(rgba: bytes) -> Pixel:
    red, green, blue, alpha = rgba
    return (red, green, blue) if alpha >= 128 else None


@contextlib.contextmanager
def _no_bombs() -> Iterator[None]:
    """Let Pillow refuse what has too many pixels before it decodes it."""
    import PIL.Image

    PIL.Image.MAX_IMAGE_PIXELS = MOST_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        yield


def _write(draft: Path, data: bytes) -> None:
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(file, "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(file)
    except OSError:
        draft.unlink()
        raise


def _sync(place: Path) -> None:
    opened = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
