"""Images: what is none or too large is refused, the rest is made anew, and no post is ever without its file."""

import contextlib
import io
import stat
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from conftest import enrol
from PIL import Image, PngImagePlugin
from sqlalchemy import text

from skychimp.errors import InvalidValue, StoreFailed
from skychimp.models import Role
from skychimp.permissions import Actor
from skychimp.services.blog import images, posts
from skychimp.services.listing import ListOptions
from skychimp.services.operations import housekeeping
from skychimp.store.database import Store

RED, BLUE = (200, 0, 0), (0, 0, 200)


@pytest.fixture
def editor(store: Store) -> Actor:
    return enrol(store, "editor", Role.EDITOR)


def picture(form: str = "PNG", size: tuple[int, int] = (40, 20), mode: str = "RGB", **how: Any) -> bytes:
    """A file of an image, its left half red and its right half blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    file = io.BytesIO()
    image.convert(mode).save(file, form, **how)
    return file.getvalue()


def decoded(image: images.Image) -> Image.Image:
    return Image.open(io.BytesIO(image.data))


def near(colour: Any, wanted: tuple[int, int, int]) -> bool:
    return all(abs(a - b) < 60 for a, b in zip(colour, wanted, strict=False))


# Made anew


@pytest.mark.parametrize(
    ("form", "mode", "suffix", "kept"),
    [
        ("PNG", "RGB", "png", "PNG"), ("PNG", "P", "png", "PNG"), ("PNG", "L", "png", "PNG"),
        ("PNG", "1", "png", "PNG"),
        ("JPEG", "RGB", "jpg", "JPEG"), ("JPEG", "CMYK", "jpg", "JPEG"), ("JPEG", "L", "jpg", "JPEG"),
        ("WEBP", "RGB", "webp", "WEBP"), ("WEBP", "RGBA", "webp", "WEBP"), ("GIF", "P", "png", "PNG"),
    ],
)  # fmt: skip
def test_the_common_formats_are_taken_whatever_their_colours(form: str, mode: str, suffix: str, kept: str) -> None:
    image = images.made_anew(picture(form, mode=mode))

    assert image.name.endswith(f".{suffix}")
    assert (decoded(image).format, decoded(image).size) == (kept, (40, 20))
    if mode not in ("L", "1"):
        assert near(decoded(image).convert("RGB").getpixel((5, 10)), RED)


def test_of_a_moving_image_the_first_frame_is_kept() -> None:
    frames = [Image.new("P", (10, 10), colour) for colour in (0, 1)]
    frames[0].putpalette([*RED, *BLUE])
    frames[1].putpalette([*RED, *BLUE])
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])

    image = decoded(images.made_anew(file.getvalue()))
    assert near(image.convert("RGB").getpixel((5, 5)), RED)


def test_what_is_transparent_stays_so() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(file, "PNG")

    assert decoded(images.made_anew(file.getvalue())).getpixel((5, 5))[3] == 0  # type: ignore[index]


def test_metadata_goes_and_the_image_is_turned_as_it_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    exif[0x010F] = "a camera of Ada's"
    words = PngImagePlugin.PngInfo()
    words.add_text("Comment", "a place of Ada's")
    jpeg = images.made_anew(picture("JPEG", exif=exif, comment=b"a word of Ada's"))
    png = images.made_anew(picture("PNG", pnginfo=words, exif=exif, icc_profile=b"a profile of Ada's"))
    webp = images.made_anew(picture("WEBP", exif=exif, xmp=b"<x>Ada's</x>"))

    for image in (jpeg, png, webp):
        assert b"Ada's" not in image.data
        assert not decoded(image).getexif()
        assert decoded(image).size == (20, 40)
        assert near(decoded(image).convert("RGB").getpixel((10, 5)), RED)  # what was left is above


def test_a_large_image_is_made_smaller() -> None:
    assert decoded(images.made_anew(picture("JPEG", (6000, 1500)))).size == (2000, 500)
    assert decoded(images.made_anew(picture("PNG", (100, 4000)))).size == (50, 2000)


def test_the_same_image_has_the_same_name_and_another_has_another() -> None:
    assert images.made_anew(picture()) == images.made_anew(picture())
    assert images.made_anew(picture()).name != images.made_anew(picture(size=(40, 21))).name


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and is some bytes only."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(10_000, 5_001), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    with pytest.raises(InvalidValue, match="50 million pixels"):
        images.made_anew(png_of(width, height))


@pytest.mark.parametrize(
    "raw",
    [b"", b"text", b"<svg xmlns='http://www.w3.org/2000/svg'/>", png_of(100, 100), picture()[:-30], picture("TIFF"),
     picture("BMP"), picture("PDF"), b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a" + b"\xff" * 50],
    ids=lambda raw: repr(raw[:12]),
)  # fmt: skip
def test_what_is_no_image_of_these_formats_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidValue, match="that is no image"):
        images.made_anew(raw)


def test_a_file_that_is_too_large_is_not_looked_at() -> None:
    with pytest.raises(InvalidValue, match="20 MB"):
        images.made_anew(picture() + b"\0" * images.LARGEST_FILE)


# Kept


def kept(store: Store) -> list[str]:
    folder = images.folder(store)
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


def test_it_is_kept_for_its_owner_alone_as_long_as_a_post_has_it(store: Store, editor: Actor) -> None:
    image, other = images.made_anew(picture()), images.made_anew(picture("JPEG"))
    first, second = (posts.create(store, editor, title="A", content="B", image=image) for _ in range(2))

    assert first.image == second.image == image.name
    file = posts.image_path(store, image.name)
    assert file.read_bytes() == image.data
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)] == [0o600, 0o700]
    assert kept(store) == [image.name]

    posts.remove(store, editor, first.slug)
    assert kept(store) == [image.name]
    changed = posts.change(store, editor, second.slug, image=other)
    assert (changed.image, changed.revision, kept(store)) == (other.name, 2, [other.name])
    assert posts.change(store, editor, second.slug, no_image=True).image is None
    assert kept(store) == []


def test_without_its_file_there_is_no_post(store: Store, editor: Actor) -> None:
    images.folder(store).write_text("a file in the folder's place")
    image = images.made_anew(picture())
    post = posts.create(store, editor, title="A", content="B")

    with pytest.raises(StoreFailed):
        posts.create(store, editor, title="C", content="D", image=image)
    with pytest.raises(StoreFailed):
        posts.change(store, editor, post.slug, image=image)
    assert [(post.title, post.image) for post in posts.list_posts(store, editor, ListOptions(), unpublished=True)] == [
        ("A", None)
    ]


def test_an_image_is_there_before_its_row_and_goes_after_it(
    store: Store, editor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the two leaves a file too many, never a row too many; housekeeping takes the file away."""
    image = images.made_anew(picture())

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(posts, "_insert", die)
        posts.create(store, editor, title="A", content="B", image=image)
    assert kept(store) == [image.name]
    assert list(posts.list_posts(store, editor, ListOptions(), unpublished=True)) == []
    housekeeping.tidy(store)
    assert kept(store) == []

    post = posts.create(store, editor, title="A", content="B", image=image)
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(images, "sweep", die)
        posts.remove(store, editor, post.slug)
    assert kept(store) == [image.name]
    housekeeping.tidy(store)
    assert kept(store) == []


def test_what_a_killed_writer_left_behind_is_swept(store: Store, editor: Actor) -> None:
    image = images.made_anew(picture())
    posts.create(store, editor, title="A", content="B", image=image)
    (images.folder(store) / ".half written").write_bytes(b"half")

    housekeeping.tidy(store)
    assert kept(store) == [image.name]


@pytest.mark.parametrize("name", ["../skychimp.db", "/etc/passwd", "x.png", "a" * 32 + ".svg", "A" * 32 + ".png", ""])
def test_a_name_from_elsewhere_is_never_followed(store: Store, editor: Actor, name: str) -> None:
    posts.create(store, editor, title="A", content="B")
    with store.write() as db:
        db.execute(text("UPDATE post SET image = :name"), {"name": name})

    with pytest.raises(StoreFailed):
        posts.image_path(store, posts.find(store, editor, "1").image or "")
    posts.remove(store, editor, "1")
    assert store.path.exists()


# Shown


def test_the_pixels_of_an_image_as_it_fits(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(images.made_anew(picture(size=(400, 200))).data)
    clear = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(clear, "PNG")
    (tmp_path / "clear.png").write_bytes(images.made_anew(clear.getvalue()).data)

    rows = images.pixels(tmp_path / "a.png", 20, 20)
    assert [len(row) for row in rows] == [20] * 10
    assert near(rows[5][2], RED)
    assert near(rows[5][17], BLUE)
    assert images.pixels(tmp_path / "clear.png", 20, 20) == [[None] * 4] * 4
    with pytest.raises(OSError, match="gone"):
        images.pixels(tmp_path / "gone.png", 20, 20)
