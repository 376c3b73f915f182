"""Test that a command killed while it writes a post with an image leaves no post without its file.

A file without its post is deleted by the next clean-up.
"""

import io
import shutil
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import create_user
from PIL import Image
from support.command import Home
from support.forks import run_forked, sweep
from support.queue_steps import rows
from support.tracing import kill_at_call, killed_call, needs_strace

from skychimp.models import Post, Role
from skychimp.services.blog import images, posts
from skychimp.services.operations import housekeeping
from skychimp.store.database import Store
from skychimp.store.schema import open_store

CALLS = "rename,unlink,mkdir,fsync,fdatasync"
COMMANDS = {
    "create": ["create", "--title", "A", "--body", "x", "--image", "blue.png", "--publish"],
    "update": ["update", "1", "--image", "blue.png"],
    "delete": ["delete", "1", "--yes"],
}


def picture(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


@pytest.mark.sqlite
@needs_strace
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "calls", [CALLS, pytest.param("pwrite64,write", marks=(pytest.mark.soak, pytest.mark.timeout(1200)))]
)
def test_post_never_lacks_its_image_file_after_a_kill(
    store: Store, home_of: Callable[..., Home], tmp_path: Path, command: str, calls: str
) -> None:
    editor = create_user(store, "editor", Role.EDITOR)
    environ = home_of(editor).environ
    posts.create(store, editor, title="A", content="x", image=images.reencode(picture("red")))
    store.close()  # moves everything from the log to the file

    def kill(number: int) -> str | None:
        folder, trace = tmp_path / f"{command}-{number}", tmp_path / f"trace-{number}"
        folder.mkdir()
        (folder / "blue.png").write_bytes(picture("blue"))
        copied = shutil.copy(store.path, folder / "skychimp.db")
        shutil.copytree(images.image_folder(store), f"{copied}.images")
        arguments = ["blog", *COMMANDS[command]]
        status, output = run_forked(
            arguments, environ | {"SKYCHIMP_STORE": str(copied)}, folder, "", kill_at_call(calls, number, trace)
        )
        call = killed_call(trace, number)
        assert status == (-signal.SIGKILL if call else 0), output
        with closing(open_store(f"sqlite:///{copied}")) as copy:
            referenced = {post.image for post in rows(copy, Post)} - {None}
            files = {file.name for file in images.image_folder(copy).iterdir()}
            assert referenced <= files, call
            if call is None:
                assert referenced == files
            housekeeping.tidy(copy)
            assert {file.name for file in images.image_folder(copy).iterdir()} == referenced
        return call.name if call else None

    assert len(sweep(kill)) >= 3
