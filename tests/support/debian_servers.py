"""Run servers of Debian on loopback, each with a configuration and files of its own.

A server runs as root in namespaces of its own. So it neither sees nor changes those of the system, and all its
processes end together. Packages that are not installed are unpacked in the folder that DEBIAN_SERVERS names.
"""

import grp
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Self

PACKAGES = os.environ.get("DEBIAN_SERVERS", "")

_TIMEOUT_S = 30.0
_POLL_S = 0.02
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# Accounts that a server knows, where the system has none of that name.
_ACCOUNTS = {
    "postfix": 64001,
    "postdrop": 64002,
    "Debian-exim": 64003,
    "opensmtpd": 64004,
    "opensmtpq": 64005,
    "dovecot": 64006,
    "dovenull": 64007,
    "skychimp-test": 64008,
}
_FOLDERS = ("etc", "var/spool", "var/lib", "run")

# All paths that are compiled into a server lead into its folder. This shell is the first process of the namespace: the
# others end with it.
_IN_NAMESPACE = """
set -e
folder=$1 packages=$2
shift 2
[ -z "$packages" ] || mount -t overlay -o "lowerdir=$packages/usr:/usr" overlay /usr
mount -t overlay -o "lowerdir=$folder/etc:/etc" overlay /etc
for name in var/spool var/lib run; do
    mount --bind "$folder/$name" "/$name"
done
"$@"
exit
"""


def account_id(name: str) -> int:
    """Return the ID of an account that only servers know. Its group has the same one."""
    return _ACCOUNTS[name]


def find_program(name: str) -> str | None:
    """Return the path of a program that is installed or unpacked, None if there is none."""
    return shutil.which(name, path=f"{PACKAGES}/usr/sbin:{PACKAGES}/usr/bin:{_PATH}" if PACKAGES else _PATH)


class DebianServer:
    """A server on 127.0.0.1 for the length of a `with` block. `port` is a free one, to listen on."""

    name: ClassVar[str]
    program: ClassVar[str]
    account: ClassVar[str] = "root"

    def __init__(self) -> None:
        self.homes: dict[str, Path] = {}
        """The homes of accounts that have one."""
        self._temporary = tempfile.TemporaryDirectory(prefix="skychimp-", ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def why_not_here(cls) -> str:
        """Return why this server cannot run here, "" if it can."""
        if os.geteuid() != 0 or sys.platform != "linux":
            return f"{cls.name} is only started by root on Linux"
        return "" if find_program(cls.program) else f"{cls.name} is not installed"

    def __enter__(self) -> Self:
        self.folder.chmod(0o755)  # the server's processes have accounts of their own
        for name in _FOLDERS:
            (self.folder / name).mkdir(parents=True)
        self._uid, self._gid = self._add_accounts()
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._temporary.cleanup()

    def prepare(self) -> None:
        """Create the folders and files that the server needs."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the server, and wait until it listens."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"),
                    *("--mount-proc", "sh", "-c", _IN_NAMESPACE, "sh", str(self.folder), PACKAGES),
                    *self.command(),
                ],
                env={"PATH": _PATH},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.wait_until(self._is_listening, "does not listen")

    def stop(self) -> None:
        """Kill the server with all its connections."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
            self.wait_until(lambda: not self._accepts(), "does not end")

    def log(self) -> str:
        """Return what the server has logged."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def create_folder(self, path: str, mode: int = 0o755) -> Path:
        """Create a folder that belongs to the server's account."""
        folder = self.folder / path
        folder.mkdir(mode)
        os.chown(folder, self._uid, self._gid)
        return folder

    def wait_until(self, condition: Callable[[], bool], problem: str) -> None:
        """Wait until a condition is true, and fail with the problem and the log if that takes too long."""
        deadline = time.monotonic() + _TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, f"{self.name} {problem}:\n{self.log()[-2000:]}"
            time.sleep(_POLL_S)

    def _is_listening(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        return self._accepts()

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _add_accounts(self) -> tuple[int, int]:
        """Write a passwd and a group file with the accounts that are missing. Return the IDs of the server's own."""
        users = {user.pw_name: (user.pw_uid, user.pw_gid) for user in pwd.getpwall()}
        groups = {group.gr_name for group in grp.getgrall()}
        passwd, group = Path("/etc/passwd").read_text(), Path("/etc/group").read_text()
        for name, number in _ACCOUNTS.items():
            home = self.homes.get(name, "/var/lib/empty")
            passwd += "" if name in users else f"{name}:x:{number}:{number}::{home}:/usr/sbin/nologin\n"
            group += "" if name in groups else f"{name}:x:{number}:\n"
        (self.folder / "etc/passwd").write_text(passwd)
        (self.folder / "etc/group").write_text(group)
        return users.get(self.account) or (_ACCOUNTS[self.account],) * 2


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
