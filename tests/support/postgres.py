"""Private PostgreSQL servers for tests: real ones, with their files in memory where that is possible.

No server outlives the process that started it, however that process ends.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import sql

USER = "skychimp"

_PARENT_FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else "/tmp"
_ACCOUNTS = ("postgres", "nobody")
_ENVIRON = {"PATH": os.defpath, "TZ": "UTC"}  # neither PG* variables nor a search for the time zone, which is slow
_SETTINGS = {
    "max_connections": "100",
    "shared_buffers": "64MB",
    "dynamic_shared_memory_type": "mmap",  # which goes with the server's folder, also after a kill
}
_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 10.0
_POLL_S = 0.005
_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

# setpriv has a program shut down when its parent ends. The shell covers a parent that ended before that.
_EXEC_FOR_PARENT = 'test "$PPID" = "$0" && exec "$@"'

# Without their files, PostgreSQL's processes would crash, and leave shared memory behind. So it first waits for them.
_REMOVE_AT_END_OF_INPUT = """
read _
for _ in $(seq 100); do
    ls -l /proc/[0-9]*/cwd 2>/dev/null | grep -qF "$0" || break
    sleep 0.1
done
exec rm -rf "$0"
"""


def find_programs() -> Path | None:
    """Return the folder with initdb and postgres: from PATH, or else the newest of /usr/lib/postgresql."""
    found = shutil.which("initdb")
    packaged = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    folders = sorted(packaged, key=lambda folder: float(folder.parent.name), reverse=True)
    if found:
        folders.insert(0, Path(found).resolve().parent)
    return next((one for one in folders if (one / "initdb").exists() and (one / "postgres").exists()), None)


@dataclass
class Server:
    """A server on 127.0.0.1 and on a Unix socket in `folder`. Its files are in `folder`/data.

    It ends with the thread that starts it, so start it in the main thread.
    """

    folder: Path
    port: int
    log: Path
    programs: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def pid(self) -> int:
        """The process ID of the postmaster."""
        return self._running.pid

    def url(self, database: str) -> str:
        """Return the URL of a database for SQLAlchemy."""
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database, empty or as a copy of another one that nobody is connected to."""
        self._execute("CREATE DATABASE {} TEMPLATE {}", name, template or "template1")

    def drop_database(self, name: str) -> None:
        """Drop a database, also one with connections."""
        self._execute("DROP DATABASE {} WITH (FORCE)", name)

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        assert self._process is None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                _get_command(self.programs / "postgres", "-D", self.data),
                cwd=self.folder,
                env=_ENVIRON,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests, which then stop it
            )
        end = time.monotonic() + _TIMEOUT_S
        while not self._is_ready(self._process.pid):
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"PostgreSQL does not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(_POLL_S)

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Shut the server down in one of PostgreSQL's modes."""
        self._running.send_signal(_STOP_SIGNALS[mode])
        self._running.wait(_TIMEOUT_S)
        self._process = None

    def kill(self) -> None:
        """Kill the postmaster, then what remains of its other processes: none of them writes anything more.

        After that, the server can start again, and recovers.
        """
        self._running.kill()
        self._running.wait()
        self._process = None
        # Without a postmaster, the others end by themselves, but not before the end of a query that computes. Until
        # then they hold the shared memory, and the server does not start.
        end = time.monotonic() + _TIMEOUT_S
        while pids := self._remaining_pids():
            assert time.monotonic() < end, pids
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_POLL_S)
        self._remove_shared_memory()

    def promote(self) -> None:
        """Make a standby the primary server."""
        self._execute("SELECT pg_promote()")

    def _end(self) -> None:
        """End all processes, whatever state a test leaves them in."""
        if self._process is None:
            return
        for signal_number in (_STOP_SIGNALS["immediate"], signal.SIGCONT):  # SIGCONT for one that a test has stopped
            self._process.send_signal(signal_number)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_TIMEOUT_S)  # unlike a killed one, it leaves no zombies
        self.kill()

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server is not running"
        return self._process

    def _execute(self, statement: str, *names: str) -> None:
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def _is_ready(self, pid: int) -> bool:
        lines = self._read_pid_file()
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() in ("ready", "standby")

    def _read_pid_file(self) -> list[str]:
        """Return the lines of postmaster.pid: the process ID first, the shared memory seventh, the status eighth."""
        with suppress(FileNotFoundError):
            return (self.data / "postmaster.pid").read_text().splitlines()
        return []

    def _remaining_pids(self) -> list[int]:
        """Return the server's processes, which are those that work in its data folder."""
        data = str(self.data)
        pids = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # another account's process, or one that has ended
                if os.readlink(process / "cwd") == data:
                    pids.append(int(process.name))
        return pids

    def _remove_shared_memory(self) -> None:
        """Remove what a killed postmaster leaves behind. The next start would do that, but it may never come."""
        lines = self._read_pid_file()
        if len(lines) > 6 and lines[6].split():
            subprocess.run(["ipcrm", "--shmem-id", lines[6].split()[1]], capture_output=True)


@contextmanager
def running_server(folder: Path, **settings: str) -> Iterator[Server]:
    """Run a new server during a block. Its log is `folder`/postgres.log, and `settings` go to postgresql.conf.

    Its own folder is a new one in /tmp, because only root can read the temporary folders of tests that run as root.
    """
    programs = find_programs()
    assert programs, "PostgreSQL is not installed"
    with _account_folder() as own_folder, _reserved_port() as port:
        server = Server(own_folder, port, folder / "postgres.log", programs)
        _create_cluster(
            server,
            _SETTINGS
            | settings
            | {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": str(own_folder)},
        )
        try:
            server.start()
            yield server
        finally:
            server._end()


@contextmanager
def running_standby(primary: Server, folder: Path) -> Iterator[Server]:
    """Run a standby of a server during a block. Its log is `folder`/standby.log."""
    with _account_folder() as own_folder, _reserved_port() as port:
        server = Server(own_folder, port, folder / "standby.log", primary.programs)
        place: list[str | Path] = ["-D", server.data, "-h", "127.0.0.1", "-p", str(primary.port), "-U", USER]
        command = _get_command(server.programs / "pg_basebackup", *place, "--write-recovery-conf", "--no-sync")
        subprocess.run(command, cwd=own_folder, env=_ENVIRON, capture_output=True, check=True)
        _configure(server, {"port": str(port), "unix_socket_directories": str(own_folder)})
        try:
            server.start()
            yield server
        finally:
            server._end()


def _get_command(program: Path, *arguments: str | Path) -> list[str | Path]:
    """Return the command line of a program that ends with this process, under an account that PostgreSQL accepts."""
    command: list[str | Path] = ["setpriv", "--pdeathsig", "QUIT"]
    if os.geteuid() == 0:
        account = _get_account()
        command += ["--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--clear-groups"]
    return [*command, "sh", "-c", _EXEC_FOR_PARENT, str(os.getpid()), program, *arguments]


def _get_account() -> pwd.struct_passwd:
    """Return the account to use instead of root, which PostgreSQL refuses."""
    for name in _ACCOUNTS:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise AssertionError(f"none of these accounts exists: {_ACCOUNTS}")


@contextmanager
def _account_folder() -> Iterator[Path]:
    """Make a folder of the server's account. It is removed at the end, also if this process is killed."""
    folder = Path(tempfile.mkdtemp(prefix="skychimp-postgres-", dir=_PARENT_FOLDER)).resolve()
    with subprocess.Popen(["sh", "-c", _REMOVE_AT_END_OF_INPUT, folder], stdin=subprocess.PIPE, start_new_session=True):
        if os.geteuid() == 0:
            account = _get_account()
            os.chown(folder, account.pw_uid, account.pw_gid)
        yield folder


@contextmanager
def _reserved_port() -> Iterator[int]:
    """Reserve a free port: only a server that asks for this very port gets it, as often as it starts.

    Linux allows that if both sockets have SO_REUSEADDR and only one of them listens.
    """
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        yield reservation.getsockname()[1]


def _create_cluster(server: Server, settings: dict[str, str]) -> None:
    command = _get_command(server.programs / "initdb", "-D", server.data, "-A", "trust", "-U", USER)
    for locale in ("C.UTF-8", "C"):
        done = subprocess.run(
            [*command, "--encoding=UTF8", f"--locale={locale}", "--no-sync", "--no-instructions"],
            cwd=server.folder,
            env=_ENVIRON,
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            break
    else:
        raise RuntimeError(f"initdb fails:\n{done.stderr}")
    _configure(server, settings)


def _configure(server: Server, settings: dict[str, str]) -> None:
    with (server.data / "postgresql.conf").open("a") as file:
        for name, value in settings.items():
            quoted = value.replace("'", "''")
            file.write(f"{name} = '{quoted}'\n")
