"""SIGKILL at every moment of writing a post with an image: no post is ever without its file, and no file stays long."""

import io
import shutil
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import enrol
from PIL import Image
from support.command import Home
from support.forks import run_forked, sweep
from support.queue_steps import rows
from support.tracing import hit, killing, needs_strace

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


@needs_strace
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "calls", [CALLS, pytest.param("pwrite64,write", marks=(pytest.mark.soak, pytest.mark.timeout(1200)))]
)
def test_a_kill_at_each_call(
    store: Store, home_of: Callable[..., Home], tmp_path: Path, command: str, calls: str
) -> None:
    editor = enrol(store, "editor", Role.EDITOR)
    environ = home_of(editor).environ
    posts.create(store, editor, title="A", content="x", image=images.made_anew(picture("red")))
    store.close()  # the file holds all of it

    def kill(number: int) -> str | None:
        folder, trace = tmp_path / f"{command}-{number}", tmp_path / f"trace-{number}"
        folder.mkdir()
        (folder / "blue.png").write_bytes(picture("blue"))
        here = shutil.copy(store.path, folder / "skychimp.db")
        shutil.copytree(images.folder(store), f"{here}.images")
        words = ["blog", *COMMANDS[command]]
        status, said = run_forked(
            words, environ | {"SKYCHIMP_STORE": str(here)}, folder, "", killing(calls, number, trace)
        )
        call = hit(trace, number)
        assert status == (-signal.SIGKILL if call else 0), said
        with closing(open_store(f"sqlite:///{here}")) as copy:
            named = {post.image for post in rows(copy, Post)} - {None}
            kept = {file.name for file in images.folder(copy).iterdir()}
            assert named <= kept, call
            if call is None:
                assert named == kept
            housekeeping.tidy(copy)
            assert {file.name for file in images.folder(copy).iterdir()} == named
        return call.name if call else None

    assert len(sweep(kill)) >= 3
