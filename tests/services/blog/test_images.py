"""Test that images are validated, re-encoded and stored, and that no post is ever without its image file."""

import contextlib
import errno
import io
import os
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import create_user
from PIL import Image, PngImagePlugin
from sqlalchemy import text
from support.accounts import NOBODY, needs_root
from support.contents import image_names

from skychimp import files
from skychimp.errors import InvalidValue, StoreFailed
from skychimp.models import Role
from skychimp.permissions import Actor
from skychimp.services.blog import images, posts
from skychimp.services.listing import ListOptions
from skychimp.services.operations import housekeeping
from skychimp.store.database import SQLITE, Store

RED, BLUE = (200, 0, 0), (0, 0, 200)


@pytest.fixture
def editor(store: Store) -> Actor:
    return create_user(store, "editor", Role.EDITOR)


def picture(file_format: str = "PNG", size: tuple[int, int] = (40, 20), mode: str = "RGB", **options: Any) -> bytes:
    """Return an image file whose left half is red and whose right half is blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    file = io.BytesIO()
    image.convert(mode).save(file, file_format, **options)
    return file.getvalue()


def decoded(image: images.Image) -> Image.Image:
    return Image.open(io.BytesIO(image.data))


def is_close(color: Any, expected: tuple[int, int, int]) -> bool:
    return all(abs(a - b) < 60 for a, b in zip(color, expected, strict=False))


# Re-encoding


@pytest.mark.parametrize(
    ("file_format", "mode", "suffix", "stored_format"),
    [
        ("PNG", "RGB", "png", "PNG"), ("PNG", "P", "png", "PNG"), ("PNG", "L", "png", "PNG"),
        ("PNG", "1", "png", "PNG"),
        ("JPEG", "RGB", "jpg", "JPEG"), ("JPEG", "CMYK", "jpg", "JPEG"), ("JPEG", "L", "jpg", "JPEG"),
        ("WEBP", "RGB", "webp", "WEBP"), ("WEBP", "RGBA", "webp", "WEBP"), ("GIF", "P", "png", "PNG"),
    ],
)  # fmt: skip
def test_common_formats_are_accepted_in_every_color_mode(
    file_format: str, mode: str, suffix: str, stored_format: str
) -> None:
    image = images.reencode(picture(file_format, mode=mode))

    assert image.name.endswith(f".{suffix}")
    assert (decoded(image).format, decoded(image).size) == (stored_format, (40, 20))
    if mode not in ("L", "1"):
        assert is_close(decoded(image).convert("RGB").getpixel((5, 10)), RED)


def test_first_frame_of_an_animation_is_used() -> None:
    frames = [Image.new("P", (10, 10), color) for color in (0, 1)]
    frames[0].putpalette([*RED, *BLUE])
    frames[1].putpalette([*RED, *BLUE])
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])

    image = decoded(images.reencode(file.getvalue()))
    assert is_close(image.convert("RGB").getpixel((5, 5)), RED)


def test_transparency_is_kept() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(file, "PNG")

    assert decoded(images.reencode(file.getvalue())).getpixel((5, 5))[3] == 0  # type: ignore[index]


def test_metadata_is_removed_and_orientation_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    exif[0x010F] = "a camera of Ada's"
    png_text = PngImagePlugin.PngInfo()
    png_text.add_text("Comment", "a location of Ada's")
    jpeg = images.reencode(picture("JPEG", exif=exif, comment=b"a comment of Ada's"))
    png = images.reencode(picture("PNG", pnginfo=png_text, exif=exif, icc_profile=b"a profile of Ada's"))
    webp = images.reencode(picture("WEBP", exif=exif, xmp=b"<x>Ada's</x>"))

    for image in (jpeg, png, webp):
        assert b"Ada's" not in image.data
        assert not decoded(image).getexif()
        assert decoded(image).size == (20, 40)
        assert is_close(decoded(image).convert("RGB").getpixel((10, 5)), RED)  # the left half is now at the top


def test_large_image_is_scaled_down() -> None:
    assert decoded(images.reencode(picture("JPEG", (6000, 1500)))).size == (2000, 500)
    assert decoded(images.reencode(picture("PNG", (100, 4000)))).size == (50, 2000)


def test_file_name_depends_on_the_content_only() -> None:
    assert images.reencode(picture()) == images.reencode(picture())
    assert images.reencode(picture()).name != images.reencode(picture(size=(40, 21))).name


def png_of(width: int, height: int) -> bytes:
    """Return a PNG whose header claims this size, and whose data is a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(10_000, 5_001), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bomb_is_refused_before_decoding(width: int, height: int) -> None:
    with pytest.raises(InvalidValue, match="50 million pixels"):
        images.reencode(png_of(width, height))


@pytest.mark.parametrize(("width", "height"), [(1, 50_000_000), (50_000_000, 1), (2, 20_000_000), (700, 65_536)])
def test_image_with_an_endless_side_is_refused_before_decoding(width: int, height: int) -> None:
    with pytest.raises(InvalidValue, match="longer than 65,535 pixels"):
        images.reencode(png_of(width, height))
    with pytest.raises(OSError, match="longer than 65,535 pixels"):
        images.read_pixels(png_of(width, height), 20, 20)


def progressive_jpeg(size: tuple[int, int], more_scans: int) -> bytes:
    """Return a progressive JPEG that repeats its last scan."""
    data = picture("JPEG", size, progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last_scan * more_scans + data[-2:]


@pytest.mark.parametrize(
    ("size", "more_scans"), [((2000, 2000), 1_500), ((7_000, 7_000), 100), ((1_000, 1_000), 5_000)]
)
def test_jpeg_with_too_many_scans_is_refused_before_decoding(size: tuple[int, int], more_scans: int) -> None:
    data = progressive_jpeg(size, more_scans)
    with pytest.raises(InvalidValue, match=r"the image has [0-9,]+ scans"):
        images.reencode(data)
    with pytest.raises(OSError, match="scans"):
        images.read_pixels(data, 20, 20)


@pytest.mark.parametrize(("size", "more_scans"), [((7_000, 7_000), 0), ((2_000, 2_000), 10), ((40, 20), 500)])
def test_progressive_jpeg_is_accepted(size: tuple[int, int], more_scans: int) -> None:
    assert images.reencode(progressive_jpeg(size, more_scans)).name.endswith(".jpg")


@pytest.mark.parametrize(
    "raw",
    [b"", b"text", b"<svg xmlns='http://www.w3.org/2000/svg'/>", png_of(100, 100), picture()[:-30], picture("TIFF"),
     picture("BMP"), picture("PDF"), b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a" + b"\xff" * 50],
    ids=lambda raw: repr(raw[:12]),
)  # fmt: skip
def test_other_formats_and_damaged_files_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidValue, match="not a valid image"):
        images.reencode(raw)


def test_too_large_file_is_refused_without_decoding() -> None:
    with pytest.raises(InvalidValue, match="20 MB"):
        images.reencode(picture() + b"\0" * images.LARGEST_FILE)


# Storage


@pytest.mark.sqlite
def test_image_file_is_private(store: Store) -> None:
    image = images.reencode(picture())
    images.save(store, image)
    file = images.image_path(store, image.name)
    assert file.read_bytes() == image.data
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)] == [0o600, 0o700]


def test_image_is_kept_while_a_post_uses_it(store: Store, editor: Actor) -> None:
    image, other = images.reencode(picture()), images.reencode(picture("JPEG"))
    first, second = (posts.create(store, editor, title="A", content="B", image=image) for _ in range(2))

    assert first.image == second.image == image.name
    assert images.read(store, image.name) == image.data
    assert image_names(store) == [image.name]

    posts.remove(store, editor, first.slug)
    assert image_names(store) == [image.name]
    changed = posts.change(store, editor, second.slug, image=other)
    assert (changed.image, changed.revision, image_names(store)) == (other.name, 2, [other.name])
    assert posts.change(store, editor, second.slug, no_image=True).image is None
    assert image_names(store) == []


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("number", "hint"), [(errno.ENOSPC, "free some disk space"), (errno.EDQUOT, "disk space"), (errno.EACCES, "perm")]
)
def test_hint_to_free_disk_space_only_if_the_disk_is_full(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int, hint: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "write_file", fail)
    with pytest.raises(StoreFailed, match=os.strerror(number)) as refused:
        images.save(store, images.reencode(picture()))
    assert refused.value.hint
    assert hint in refused.value.hint


@pytest.mark.sqlite
def test_post_is_not_saved_if_its_image_cannot_be_written(store: Store, editor: Actor) -> None:
    images.image_folder(store).write_text("a file where the folder should be")
    image = images.reencode(picture())
    post = posts.create(store, editor, title="A", content="B")

    with pytest.raises(StoreFailed, match=r"skychimp.db.images is not a folder$") as refused:
        posts.create(store, editor, title="C", content="D", image=image)
    assert refused.value.hint == "move it away, then run the command again"
    with pytest.raises(StoreFailed):
        posts.change(store, editor, post.slug, image=image)
    assert [(post.title, post.image) for post in posts.list_posts(store, editor, ListOptions(), unpublished=True)] == [
        ("A", None)
    ]


def test_image_is_written_before_its_row_and_removed_after_it(
    store: Store, editor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the two leaves an unused image, never a row without one. Housekeeping removes the image."""
    image = images.reencode(picture())

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(posts, "_insert_post", die)
        posts.create(store, editor, title="A", content="B", image=image)
    assert image_names(store) == [image.name]
    assert list(posts.list_posts(store, editor, ListOptions(), unpublished=True)) == []
    housekeeping.tidy(store)
    assert image_names(store) == []

    post = posts.create(store, editor, title="A", content="B", image=image)
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(images, "remove_unused", die)
        posts.remove(store, editor, post.slug)
    assert image_names(store) == [image.name]
    housekeeping.tidy(store)
    assert image_names(store) == []


@pytest.mark.sqlite
def test_leftovers_of_a_killed_writer_are_removed(store: Store, editor: Actor) -> None:
    image = images.reencode(picture())
    posts.create(store, editor, title="A", content="B", image=image)
    (images.image_folder(store) / f".{image.name}.0123abcd").write_bytes(b"half")

    housekeeping.tidy(store)
    assert image_names(store) == [image.name]


USER_FILES = [
    "notes.txt",
    "d41d8cd98f00b204e9800998ecf8427e.png",
    ".half written",
    "0" * 32 + ".jpg",
    ".x.png.0123abcd",
]


@pytest.mark.sqlite
def test_files_of_the_user_are_never_removed(store: Store, editor: Actor) -> None:
    """Also not one that is named after a hash of another kind, as we do not know it."""
    post = posts.create(store, editor, title="A", content="B", image=images.reencode(picture()))
    folder = images.image_folder(store)
    for name in USER_FILES:
        (folder / name).write_text("precious")
    ours = images.reencode(picture("JPEG"))
    (folder / ours.name).symlink_to("notes.txt")
    (folder / f".{ours.name}.0123abcd").mkdir()

    posts.remove(store, editor, post.slug)
    housekeeping.tidy(store)
    assert image_names(store) == sorted([*USER_FILES, ours.name, f".{ours.name}.0123abcd"])
    assert {(folder / name).read_text() for name in USER_FILES} == {"precious"}


def make_link(folder: Path, docs: Path) -> None:
    folder.rename(docs)
    folder.symlink_to(docs.name)


UNSAFE_FOLDERS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "a link": (make_link, "is a link"),
    "writable by others": (lambda folder, _: folder.chmod(0o777), "can be changed by others"),
    "of another account": (lambda folder, _: os.chown(folder, NOBODY, NOBODY), "belongs to nobody"),
}


@needs_root
@pytest.mark.sqlite
@pytest.mark.parametrize("kind", UNSAFE_FOLDERS)
def test_unsafe_folder_is_not_changed_and_not_read(store: Store, editor: Actor, tmp_path: Path, kind: str) -> None:
    first, other = images.reencode(picture()), images.reencode(picture("JPEG"))
    post = posts.create(store, editor, title="A", content="B", image=first)
    docs = tmp_path / "docs"
    make, fault = UNSAFE_FOLDERS[kind]
    make(images.image_folder(store), docs)
    (images.image_folder(store) / other.name).write_bytes(other.data)
    before = (image_names(store), os.stat(images.image_folder(store)).st_mode)

    with pytest.raises(StoreFailed, match=f"{store.path.name}.images {fault}"):
        posts.create(store, editor, title="C", content="D", image=other)
    with pytest.raises(OSError, match=fault):
        images.read(store, first.name)
    posts.remove(store, editor, post.slug)
    housekeeping.tidy(store)
    assert (image_names(store), os.stat(images.image_folder(store)).st_mode) == before


@pytest.mark.sqlite
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/etc/hostname")])
def test_only_a_regular_file_is_read_as_an_image(store: Store, make: Callable[[Path], object]) -> None:
    image = images.reencode(picture())
    images.save(store, image)
    path = images.image_path(store, image.name)
    path.unlink()
    make(path)
    with pytest.raises(OSError):  # noqa: PT011
        images.read(store, image.name)
    assert images.find(store, image.name) is None


@pytest.mark.sqlite
def test_link_in_the_place_of_an_image_is_replaced_not_followed(store: Store, tmp_path: Path) -> None:
    image = images.reencode(picture())
    (tmp_path / "precious").write_text("precious")
    images.image_folder(store).mkdir(mode=0o700)
    images.image_path(store, image.name).symlink_to(tmp_path / "precious")
    images.save(store, image)
    assert images.read(store, image.name) == image.data
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("name", ["../skychimp.db", "/etc/passwd", "x.png", "a" * 32 + ".svg", "A" * 32 + ".png", ""])
def test_foreign_image_name_is_never_used_as_a_path(store: Store, editor: Actor, name: str) -> None:
    posts.create(store, editor, title="A", content="B")
    with store.write() as db:
        db.execute(text("UPDATE post SET image = :name"), {"name": name})

    for use in (images.image_path, images.read, images.find):
        with pytest.raises(StoreFailed, match="invalid image name"):
            use(store, posts.find(store, editor, "1").image or "")
    posts.remove(store, editor, "1")
    assert store.path.exists() or store.dialect != SQLITE


# Display


def test_pixels_are_scaled_down_to_fit() -> None:
    wide = images.reencode(picture(size=(400, 200))).data
    clear = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(clear, "PNG")

    rows = images.read_pixels(wide, 20, 20)
    assert [len(row) for row in rows] == [20] * 10
    assert is_close(rows[5][2], RED)
    assert is_close(rows[5][17], BLUE)
    assert images.read_pixels(images.reencode(clear.getvalue()).data, 20, 20) == [[None] * 4] * 4
    with pytest.raises(OSError, match="cannot identify"):
        images.read_pixels(b"damaged", 20, 20)
