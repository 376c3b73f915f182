"""Decode, re-encode and store the images of posts, in a folder beside the store.

A file is named after the hash of its content, so that the same image is stored once. A file that no post uses is
harmless and is removed later; a post without its file must not exist. Therefore a file is written before its row is
committed, and removed only when no row names it. Both happen inside a write transaction, so that no other process can
start to use an image that is being removed.
"""

import contextlib
import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import select

from skychimp import files
from skychimp.errors import InvalidValue, StoreFailed
from skychimp.models import Post
from skychimp.store.database import Store

LARGEST_FILE = 20_000_000
"""Bytes of a file that is accepted."""
MOST_PIXELS = 50_000_000
"""Pixels of an image that is decoded."""
LONGEST_SIDE = 2_000
"""Pixels of a stored image; a larger one is scaled down."""

_FILE_NAME = re.compile(r"[0-9a-f]{32}\.(png|jpg|webp)")
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
    if len(raw) > LARGEST_FILE:
        raise InvalidValue(f"the image is larger than {LARGEST_FILE // 1_000_000} MB", "use a smaller image")
    import PIL.Image

    try:
        with _pixel_limit():
            data, suffix = _reencoded(raw)
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        millions = MOST_PIXELS // 1_000_000
        raise InvalidValue(f"the image has more than {millions} million pixels", "use a smaller image") from None
    except Exception:  # a decoder may raise anything if its input is damaged
        raise InvalidValue("the file is not a valid image", "use a PNG, JPEG, WebP or GIF file") from None
    return Image(f"{hashlib.blake2b(data, digest_size=16).hexdigest()}.{suffix}", data)


def save(store: Store, image: Image) -> None:
    """Write an image to the folder, completely or not at all. Call it inside a write transaction.

    Raises StoreFailed.
    """
    path = image_path(store, image.name)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not path.exists():
            files.write_file(path, image.data)
        for folder in path.parents[:2]:  # also after a kill between the rename and its sync
            files.sync_folder(folder)
    except OSError as error:
        raise StoreFailed(f"cannot write {path}: {error.strerror}", "free some disk space, then try again") from None


def remove_unused(store: Store) -> None:
    """Remove the files that no post uses. Skip what cannot be removed now."""
    folder = image_folder(store)
    if not folder.is_dir():
        return
    with contextlib.suppress(OSError, StoreFailed), store.write() as db:
        used = set(db.execute(select(Post.__table__.c.image).distinct()).scalars())
        for file in folder.iterdir():
            if file.name not in used:
                file.unlink()


def image_path(store: Store, name: str) -> Path:
    """Return the path of a stored image: a PNG, JPEG or WebP file, as its suffix says.

    Raises StoreFailed for a name that we never give, such as `../x` in a store that somebody else made.
    """
    if not _FILE_NAME.fullmatch(name):
        raise StoreFailed(f"invalid image name {name!r} in the store", "set the post's image again with --image")
    return image_folder(store) / name


def image_folder(store: Store) -> Path:
    """Return the folder that holds the images of a store."""
    return store.path.with_name(f"{store.path.name}.images")


def read_pixels(file: Path, width: int, height: int) -> list[list[Pixel]]:
    """Return the rows of a stored image, scaled down to `width` and `height`. Raises OSError if it cannot be read."""
    import PIL.Image

    with _pixel_limit(), PIL.Image.open(file, formats=list(_ENCODERS)) as opened:
        small = opened.convert("RGBA")
        small.thumbnail((width, height))
        data = small.tobytes()
        pixels = [_pixel(data[start : start + 4]) for start in range(0, len(data), 4)]
        return [pixels[start : start + small.width] for start in range(0, len(pixels), small.width)]


def _reencoded(raw: bytes) -> tuple[bytes, str]:
    """Return the content and the suffix of the stored file."""
    import PIL.Image
    import PIL.ImageOps

    with PIL.Image.open(io.BytesIO(raw), formats=list(_STORED_AS)) as opened:
        stored_format = _STORED_AS[opened.format or ""]
        opened.draft(None, (LONGEST_SIDE, LONGEST_SIDE))  # decode a large JPEG at a fraction of its size
        image = PIL.ImageOps.exif_transpose(opened)
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        image.info.clear()
        suffix, options = _ENCODERS[stored_format]
        encoded = io.BytesIO()
        image.save(encoded, stored_format, **options)
        return encoded.getvalue(), suffix


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
