"""An account that runs Skychimp, as mail and web servers know it. It need not exist outside of their namespaces."""

import os
import subprocess
from pathlib import Path
from typing import Any

from support.command import TIMEOUT_S, CommandResult
from support.debian_servers import account_id
from support.shared_installation import install_for_others

ACCOUNT = "skychimp-test"


class ServiceAccount:
    """The account's home, and the installed command. Everybody can enter `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = self.create_folder("home", 0o700)
        self.program = install_for_others(folder / "installed")
        self.log = folder / "log"
        self.environ = {"HOME": str(self.home), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

    def create_folder(self, name: str, mode: int) -> Path:
        """Create a folder of the account in `folder`."""
        created = self.folder / name
        created.mkdir()
        created.chmod(mode)
        self.own(created)
        return created

    def own(self, path: Path) -> None:
        """Give the account a file."""
        os.chown(path, account_id(ACCOUNT), account_id(ACCOUNT))

    def write_config(self, text: str) -> None:
        """Write the account's config file."""
        path = self.home
        for name in (".config", "skychimp"):
            path /= name
            path.mkdir(mode=0o700, exist_ok=True)
            self.own(path)
        path /= "skychimp.toml"
        path.write_text(text)
        self.own(path)

    def run(self, *arguments: str, stdin: str = "") -> CommandResult:
        """Run the command."""
        done = subprocess.run(
            [self.program, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            **self._options(),
        )
        return CommandResult(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a command that runs until it is stopped. It writes to `log`."""
        with self.log.open("ab") as log:
            return subprocess.Popen([self.program, *arguments], stdout=log, stderr=log, **self._options())

    def _options(self) -> dict[str, Any]:
        number = account_id(ACCOUNT)
        return {"user": number, "group": number, "extra_groups": [], "cwd": "/", "env": self.environ}
