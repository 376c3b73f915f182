"""Run `init` once, and give each test the home as it was then.

To run it for each test would take most of the time.
"""

import shutil
from pathlib import Path

from support.command import Home


class InitialHome:
    """A home after `init`, in a new folder. Global options come before `init`."""

    def __init__(self, folder: Path, *options: str, email: str = "ada@skychimp.test", **environ: str) -> None:
        self._home = Home(folder / "home", **environ)
        self._home.folder.mkdir()
        assert self._home.call(*options, "init", "--email", email).status == 0
        self._as_it_was = shutil.copytree(self._home.folder, folder / "as it was")

    def restore(self) -> Home:
        """Return the home as it was after `init`, whatever the last test has changed."""
        shutil.rmtree(self._home.folder)
        shutil.copytree(self._as_it_was, self._home.folder)
        return self._home
