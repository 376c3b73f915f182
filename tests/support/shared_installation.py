"""A shared installation with real accounts of this machine, which people run with the real sudo.

It has an account for the service, an operator and two colleagues. All are removed afterwards.
"""

import fcntl
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import skychimp
from support.command import CommandResult

TIMEOUT_S = 60
_CALL_EACH = """
import json, sys
from dataclasses import astuple
from pathlib import Path
tests, environ, commands = json.load(sys.stdin)
sys.path.append(tests)
from support.command import Home
home = Home(Path("/"), **environ)
json.dump([astuple(home.call(*arguments)) for arguments in commands], sys.stdout)
"""
PASSWORD = "correct horse battery"


@dataclass(frozen=True)
class SharedInstallation:
    """The accounts, by what they are called in tests, and the installed command."""

    folder: Path
    program: Path
    accounts: Mapping[str, str]
    """The names of the accounts: service, operator, ada and grace. Ada and Grace may run the command with sudo."""

    @property
    def home(self) -> Path:
        """The home of the service's account."""
        return self.folder / self.accounts["service"]

    @property
    def config(self) -> Path:
        return self.home / ".config/skychimp/skychimp.toml"

    @property
    def store(self) -> Path:
        return self.home / ".local/share/skychimp/skychimp.db"

    def home_of(self, who: str) -> Path:
        return self.folder / self.accounts[who]

    def run_as_service(self, *arguments: str, stdin: str = "", **environ: Any) -> CommandResult:
        """Run the command on the service's account, as cron does."""
        return self.run("service", [str(self.program), *arguments], stdin=stdin, **environ)

    def sudo(
        self, who: str, *arguments: str, stdin: str = "", cwd: Path | None = None, keep: str = "", **environ: Any
    ) -> CommandResult:
        """Run the command with sudo. `keep` names variables that sudo is asked to pass on."""
        options = [f"--preserve-env={keep}"] if keep else []
        command = ["sudo", "-n", *options, "-u", self.accounts["service"], str(self.program), *arguments]
        return self.run(who, command, stdin=stdin, cwd=cwd, **environ)

    def run(
        self, who: str, command: Sequence[str], *, stdin: str = "", cwd: Path | None = None, **environ: Any
    ) -> CommandResult:
        """Run any command as somebody."""
        account = pwd.getpwnam(self.accounts[who])
        done = subprocess.run(
            command,
            input=stdin,
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=os.getgrouplist(account.pw_name, account.pw_gid),
            cwd=cwd or "/",
            env={"HOME": account.pw_dir, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"} | environ,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return CommandResult(done.returncode, done.stdout, done.stderr)

    def call_each(self, who: str, commands: Sequence[Sequence[str]], token: str) -> list[CommandResult]:
        """Run commands on the service's account in one process, with the variables that sudo sets for somebody."""
        account = pwd.getpwnam(self.accounts[who])
        environ = {
            "HOME": str(self.home),
            "SKYCHIMP_TOKEN": token,
            "SUDO_GID": str(account.pw_gid),
            "SUDO_UID": str(account.pw_uid),
            "SUDO_USER": account.pw_name,
        }
        python = str(self.program.with_name("python"))
        request = json.dumps([str(Path(__file__).parents[1]), environ, commands])
        done = self.run("service", [python, "-c", _CALL_EACH], stdin=request)
        assert done.status == 0, done.err
        return [CommandResult(*result) for result in done.json]

    def write_config(self, text: str) -> None:
        """Write the account's config file, in place of the one before."""
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text(text)
        self.own(self.config, self.config.parent, self.config.parent.parent)

    def own(self, *paths: Path, by: str = "service") -> None:
        """Make somebody the owner of files."""
        for path in paths:
            shutil.chown(path, self.accounts[by], self.accounts[by])


@contextmanager
def shared_installation() -> Iterator[SharedInstallation]:
    """Make the accounts and install the command, and remove all of it afterwards.

    Skips the test, with the reason, where that is not possible.
    """
    _require_programs()
    with tempfile.TemporaryDirectory(prefix="skychimp-sudo-") as name, ExitStack() as undo:
        folder = Path(name)
        folder.chmod(0o755)
        accounts = {who: f"sky-{who[:4]}-{os.getpid()}" for who in ("service", "operator", "ada", "grace")}
        for account in accounts.values():
            _run_alone("useradd", "--user-group", "--create-home", "--home-dir", f"{folder / account}", account)
            undo.callback(_run_alone, "userdel", account)
            (folder / account).chmod(0o700)
        program = install_for_others(folder / "installed")
        installation = SharedInstallation(folder, program, accounts)
        _require_usable(installation)
        yield installation


@contextmanager
def sudoers_file(text: str) -> Iterator[None]:
    """Install a file for sudo, after visudo has accepted it."""
    draft = Path(f"/etc/sudoers.d/.skychimp-test-{os.getpid()}.draft")  # sudo ignores names with a dot
    installed = Path(f"/etc/sudoers.d/skychimp-test-{os.getpid()}")
    draft.write_text(text)
    draft.chmod(0o440)
    try:
        checked = subprocess.run(["visudo", "-cf", draft], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        assert checked.stderr == ""
        draft.rename(installed)
        yield
    finally:
        draft.unlink(missing_ok=True)
        installed.unlink(missing_ok=True)


def install_for_others(folder: Path) -> Path:
    """Install the command where other accounts can run it, with the packages of the tests, and return its path.

    The interpreter of the tests may be in a private folder. Then the system's is used.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = os.path.realpath(sys.executable)
    usable = [path for path in (base, f"/usr/bin/{version}") if _can_anybody_run(path)]
    if not usable:
        pytest.skip(f"other accounts cannot run {base}, and there is no /usr/bin/{version}")
    subprocess.run([usable[0], "-m", "venv", "--without-pip", folder], check=True, capture_output=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    project = Path(skychimp.__file__).parents[1]
    used = [str(project), *(path for path in sys.path if "site-packages" in path)]
    (packages / "of-the-tests.pth").write_text("\n".join(used))
    program = folder / "bin/skychimp"
    program.write_text(f"#!{folder}/bin/python\nfrom skychimp.cli.main import main\n\nmain()\n")
    program.chmod(0o755)
    return program


def _require_programs() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make accounts for this test")
    missing = [name for name in ("sudo", "visudo", "useradd", "userdel") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def _require_usable(installation: SharedInstallation) -> None:
    tried = installation.run("operator", ["sudo", "-V"])
    if tried.status:
        pytest.skip(f"sudo does not work here: {tried.err}")
    tried = installation.run_as_service("help", "--json")
    if tried.status:
        pytest.skip(f"other accounts cannot run this copy of Skychimp: {tried.err or tried.out}")


def _can_anybody_run(program: str) -> bool:
    options: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": [], "cwd": "/"}
    try:
        return (
            subprocess.run([program, "-c", "import venv"], capture_output=True, check=False, **options).returncode == 0
        )
    except OSError:
        return False


def _run_alone(*command: str) -> None:
    """Change the accounts of this machine. Tests in other processes have to wait: the programs do not."""
    with open(Path(tempfile.gettempdir()) / "skychimp-test-accounts.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(command, check=True, capture_output=True)
