"""Nobody else's file becomes a config, a .env or a secret, and none of them makes a command wait.

Set-ups that many people have go on working: links, secrets of systemd, Kubernetes and Docker, and private groups.
"""

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import DEVNULL

import pytest
from support.accounts import MAIL, NOBODY, needs_root, run_as
from support.command import CommandResult, Home
from support.initial_home import InitialHome

TESTS = Path(__file__).parents[1]
SHARED_GROUP = 65534
pytestmark = pytest.mark.timeout(30)  # nothing waits
SECRET = "hunter2-and-more"
LOGIN = '[smtp]\nhost = "127.0.0.1"\nport = 1\nsecurity = "none"\nusername = "ada"\n'


@pytest.fixture(scope="module")
def initial_home(tmp_path_factory: pytest.TempPathFactory) -> InitialHome:
    return InitialHome(tmp_path_factory.mktemp("homes"), SKYCHIMP_MAIL__SENDER="Ada <ada@skychimp.test>")


@pytest.fixture
def home(initial_home: InitialHome) -> Home:
    """Return a home with a config in the usual place, and a working folder. It is as it was after `init`."""
    return initial_home.restore()


# What nobody should read. Each function is given the path and the content that the file would have.


def a_pipe(path: Path, _: str) -> None:
    os.mkfifo(path)


def a_socket(path: Path, _: str) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.open(path.parent, os.O_RDONLY)
        bound.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


def a_link_to_dev_zero(path: Path, _: str) -> None:
    path.symlink_to("/dev/zero")


def a_link_to_a_pipe(path: Path, _: str) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def a_link_to_itself(path: Path, _: str) -> None:
    path.symlink_to(path.name)


def a_folder(path: Path, _: str) -> None:
    path.mkdir()


def a_huge_file(path: Path, text: str) -> None:
    path.write_text(text)
    os.truncate(path, 4_000_000_000)


def a_file_of_another_account(path: Path, text: str) -> None:
    path.write_text(text)
    os.chown(path, NOBODY, NOBODY)


def a_link_to_a_file_of_another_account(path: Path, text: str) -> None:
    a_file_of_another_account(path.with_name("real"), text)
    path.symlink_to("real")


def a_file_that_others_can_write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o606)


def a_file_that_a_shared_group_can_write(path: Path, text: str) -> None:
    path.write_text(text)
    os.chown(path, -1, SHARED_GROUP)
    path.chmod(0o660)


def _link_into(path: Path, text: str, mode: int, owner: int = -1) -> None:
    """Make the path a link to a file in a folder with this mode and owner."""
    folder = path.parent / "elsewhere"
    folder.mkdir()
    (folder / "real").write_text(text)
    folder.chmod(mode)
    os.chown(folder, owner, -1)
    path.symlink_to(folder / "real")


def a_file_in_a_folder_that_others_can_write(path: Path, text: str) -> None:
    _link_into(path, text, 0o777)


def a_file_in_a_shared_folder_like_tmp(path: Path, text: str) -> None:
    _link_into(path, text, 0o1777)


def a_file_in_a_folder_of_another_account(path: Path, text: str) -> None:
    _link_into(path, text, 0o755, NOBODY)


UNSAFE: list[Callable[[Path, str], None]] = [
    a_pipe, a_socket, a_link_to_dev_zero, a_link_to_a_pipe, a_link_to_itself, a_folder, a_huge_file,
    a_file_of_another_account, a_link_to_a_file_of_another_account, a_file_that_others_can_write,
    a_file_that_a_shared_group_can_write, a_file_in_a_folder_that_others_can_write, a_file_in_a_shared_folder_like_tmp,
    a_file_in_a_folder_of_another_account,
]  # fmt: skip
with_unsafe = pytest.mark.parametrize("unsafe", UNSAFE, ids=lambda make: make.__name__)


def is_refused(done: CommandResult, path: Path) -> bool:
    """Return whether a command said in one line, and a hint, why it cannot use a file."""
    error, hint = done.err.splitlines()
    assert error.startswith((f"error: cannot use {path}: ", f"error: cannot read {path}: ")), error
    assert hint.startswith("hint: ")
    return done.status == 3


@needs_root
@with_unsafe
@pytest.mark.parametrize("named", ["--config", "SKYCHIMP_CONFIG", "usual"])
def test_config_is_refused(home: Home, unsafe: Callable[[Path, str], None], named: str) -> None:
    usual = home.folder / ".config/skychimp/skychimp.toml"
    path = usual if named == "usual" else home.folder / "named.toml"
    path.unlink(missing_ok=True)
    unsafe(path, "")
    options = ("--config", str(path)) if named == "--config" else ()
    environ = {"SKYCHIMP_CONFIG": str(path)} if named == "SKYCHIMP_CONFIG" else {}
    for command in ("stats", "run", "status", "whoami"):
        assert is_refused(home.call(*options, command, environ=environ), path)


@pytest.mark.parametrize("named", ["--config", "SKYCHIMP_CONFIG", "usual", ".env", "folder"])
def test_link_to_nothing_is_not_the_same_as_no_config(home: Home, named: str) -> None:
    """Otherwise clients would be written to the default store while the disk with the config is away."""
    folder = home.folder / ".config/skychimp"
    usual, link = folder / "skychimp.toml", home.folder / "named.toml"
    if named == "folder":
        folder.rename(home.folder / "before")
    link = {"usual": usual, ".env": folder / ".env", "folder": folder}.get(named, link)
    link.unlink(missing_ok=True)
    link.symlink_to("dotfiles")
    options = ("--config", str(link)) if named == "--config" else ()
    environ = {"SKYCHIMP_CONFIG": str(link)} if named == "SKYCHIMP_CONFIG" else {}
    done = home.call(*options, "stats", environ=environ)
    kind = "folder" if named == "folder" else "file"
    error, hint = (
        f"{link} is a link to a {kind} that does not exist: dotfiles",
        f"create that {kind}, or delete the link",
    )
    assert (done.status, done.err) == (3, f"error: {error}\nhint: {hint}\n")


@needs_root
@with_unsafe
def test_env_file_beside_the_config_is_refused(home: Home, unsafe: Callable[[Path, str], None]) -> None:
    path = home.folder / ".config/skychimp/.env"
    unsafe(path, "SKYCHIMP_SMTP__HOST=evil.example\n")
    done = home.call("stats")
    if unsafe is a_folder:  # somebody's virtual environment
        assert done.status == 0
    else:
        assert is_refused(done, path)


@needs_root
@with_unsafe
def test_config_in_the_current_folder_is_passed_over_and_cannot_be_trusted(
    home: Home, unsafe: Callable[[Path, str], None]
) -> None:
    path = home.folder / "skychimp.toml"
    unsafe(path, "store.url = 'planted.db'\n")
    done = home.call("-v", "stats")
    warning, config, _ = done.err.splitlines()
    assert warning.startswith(f"{path} is not trusted: using {home.folder}/.config/skychimp/skychimp.toml (cannot ")
    assert config == f"config: {home.folder}/.config/skychimp/skychimp.toml"
    assert done.status == 0
    assert is_refused(home.call("trust"), path)
    assert home.call("trust", "--list").out == ""


@needs_root
@with_unsafe
@pytest.mark.parametrize("setting", ["password_file", "ca_file"])
def test_file_that_a_setting_names_is_refused(
    home: Home, unsafe: Callable[[Path, str], None], setting: str, tmp_path: Path
) -> None:
    path = home.folder / "secret"
    unsafe(path, SECRET)
    config = tmp_path / "c.toml"
    security = "starttls" if setting == "ca_file" else "none"
    text = LOGIN.replace("none", security) + f"{setting} = '{path}'\n[mail]\ntransport = 'smtp'\n"
    config.write_text(text)
    done = home.call("--config", str(config), "run")
    assert is_refused(done, path)
    assert SECRET not in done.out + done.err


@pytest.mark.parametrize("unsafe", [a_pipe, a_link_to_dev_zero, a_huge_file], ids=lambda make: make.__name__)
@pytest.mark.parametrize("place", ["skychimp.toml", ".config/skychimp/skychimp.toml", ".config/skychimp/.env"])
def test_completion_is_silent_and_does_not_wait(home: Home, unsafe: Callable[[Path, str], None], place: str) -> None:
    (home.folder / place).unlink(missing_ok=True)
    unsafe(home.folder / place, "")
    words = {"_SKYCHIMP_COMPLETE": "complete_bash", "COMP_WORDS": "skychimp\nclients\nshow\n", "COMP_CWORD": "3"}
    done = home.call(environ=words)
    assert (done.status, done.err) == (0, "")


def test_completion_never_asks_or_warns_about_a_config_that_is_not_trusted(home: Home) -> None:
    assert home.call("clients", "create", "--email", "grace@example.org").status == 0
    (home.folder / "skychimp.toml").write_text("store.url = 'planted.db'\n")
    words = {"_SKYCHIMP_COMPLETE": "complete_bash", "COMP_WORDS": "skychimp\nclients\nshow\ng", "COMP_CWORD": "3"}
    done = home.call(environ=words)
    assert (done.out.strip(), done.err) == ("grace@example.org", "")
    terminal = home.on_terminal(environ=words)
    assert terminal.out.strip() == "grace@example.org"


# The attacks that were carried out


@pytest.mark.parametrize("owner", [None, pytest.param(NOBODY, marks=needs_root)])
def test_env_file_in_the_current_folder_changes_nothing(home: Home, owner: int | None) -> None:
    env = home.folder / ".env"
    env.write_text("SKYCHIMP_SMTP__HOST=evil.example\nSKYCHIMP_STORE=planted.db\nSKYCHIMP_MAIL__TRANSPORT=smtp\n")
    if owner is not None:
        os.chown(env, owner, owner)
    done = home.call("-v", "stats")
    assert done.status == 0
    assert done.err.splitlines()[1] == f"store:  {home.folder}/.local/share/skychimp/skychimp.db"


@pytest.mark.parametrize(
    "content", ["-----BEGIN KEY-----\nAAAA\n-----END KEY-----\n", "a\nb", "a\rb", "a\0b", "a\n\nb\n"]
)
def test_private_key_is_never_sent_as_a_password(home: Home, content: str) -> None:
    key = home.folder / "id_ed25519"
    key.write_text(content)
    (home.folder / "skychimp.toml").write_text(LOGIN + f"password_file = '{key}'\n[mail]\ntransport = 'smtp'\n")
    assert "is not trusted" in home.call("run").err
    done = home.call("--config", "skychimp.toml", "run")
    assert is_refused(done, key)
    assert "more than one line" in done.err
    done = home.call("--config", "skychimp.toml", "doctor")
    assert done.status == 3
    assert "more than one line" in done.out


def test_password_is_at_most_1_kb(home: Home) -> None:
    (home.folder / "password").write_text("x" * 1_001)
    (home.folder / "c.toml").write_text(LOGIN + "password_file = 'password'\n[mail]\ntransport = 'smtp'\n")
    assert "the file is larger than 1,000 bytes" in home.call("--config", "c.toml", "run").err


@needs_root
@pytest.mark.usefixtures("with_sudo")
def test_root_in_the_home_of_another_account_is_told_to_use_that_account(home: Home) -> None:
    """As with "sudo -E". The folder is private, so its owner must keep it."""
    folder = home.folder / ".config/skychimp"
    for path in (folder, folder / "skychimp.toml"):
        os.chown(path, NOBODY, NOBODY)
    done = home.call("stats")
    assert done.err == (
        f"error: cannot use {folder}/skychimp.toml: {folder} belongs to nobody\n"
        'hint: run "sudo -u nobody skychimp ..."\n'
    )


@needs_root
@pytest.mark.usefixtures("with_sudo")
def test_root_gets_no_exception(home: Home) -> None:
    """Every test of this module is run by root, if it needs another account. This one says so."""
    a_file_of_another_account(home.folder / "c.toml", "")
    done = home.call("--config", "c.toml", "stats")
    assert is_refused(done, home.folder / "c.toml")
    assert f"chown root {home.folder}/c.toml" in done.err


# Set-ups that go on working


@pytest.fixture
def mail_home() -> Iterator[Home]:
    """Return the home of an account that is the only member of its group, in a folder of root."""
    parent = Path(tempfile.mkdtemp())
    parent.chmod(0o755)
    folder = parent / "home"
    folder.mkdir(mode=0o700)
    os.chown(folder, MAIL, MAIL)
    yield Home(folder, SKYCHIMP_MAIL__SENDER="Ada <ada@skychimp.test>")
    shutil.rmtree(parent)


def as_mail(home: Home, *arguments: str, umask: int = 0o077, **environ: str) -> CommandResult:
    """Run the command as the account `mail`."""
    done = run_as(
        MAIL, "-m", "skychimp", *arguments, env=home.environ | environ, cwd=home.folder, umask=umask, stdin=DEVNULL
    )
    return CommandResult(done.returncode, done.stdout, done.stderr)


CALL_EACH = """
import json, os, sys
from dataclasses import astuple
from pathlib import Path
from support.command import Home
home = Home(Path.cwd(), **{name: value for name, value in os.environ.items() if name.startswith("SKYCHIMP_")})
json.dump([astuple(home.call(*arguments)) for arguments in json.load(sys.stdin)], sys.stdout)
"""
"""A program that runs several commands in its own process."""


def each_as_mail(home: Home, commands: list[tuple[str, ...]], umask: int = 0o077) -> list[CommandResult]:
    """Run commands as the account `mail`, in one process."""
    environ = home.environ | {"TESTS": str(TESTS)}
    program = "import os, sys; sys.path.append(os.environ['TESTS'])\n" + CALL_EACH
    done = run_as(MAIL, "-c", program, env=environ, cwd=home.folder, umask=umask, input=json.dumps(commands))
    assert done.returncode == 0, done.stderr
    return [CommandResult(*result) for result in json.loads(done.stdout)]


@needs_root
def test_group_owned_home_with_umask_002(mail_home: Home) -> None:
    mail_home.folder.chmod(0o2775)
    (mail_home.folder / ".config").mkdir(mode=0o775)
    (mail_home.folder / ".config/skychimp").mkdir(mode=0o2775)
    for folder in (".config", ".config/skychimp"):
        os.chown(mail_home.folder / folder, MAIL, MAIL)
        (mail_home.folder / folder).chmod(0o2775)
    done = as_mail(mail_home, "init", "--email", "ada@skychimp.test", umask=0o002)
    assert (done.status, done.err.count("error")) == (0, 0)
    config = mail_home.folder / ".config/skychimp/skychimp.toml"
    config.chmod(0o664)
    local, env = mail_home.folder / "skychimp.toml", mail_home.folder / ".env"
    local.write_text("mail.timezone = 'UTC'\n")
    env.write_text("SKYCHIMP_SMTP__PORT=26\n")
    for path in (local, env):
        os.chown(path, MAIL, MAIL)
        path.chmod(0o664)
    trusted, done = each_as_mail(mail_home, [("trust",), ("-v", "stats")], umask=0o002)
    assert trusted.status == 0
    assert (done.status, done.err.splitlines()[0]) == (0, f"config: {local}")


@needs_root
def test_private_group_does_not_help_with_another_group_or_account(mail_home: Home) -> None:
    faults = {
        (MAIL, SHARED_GROUP, 0o660): "can be changed by its group",
        (MAIL, 12345, 0o660): "can be changed by its group",
        (NOBODY, MAIL, 0o660): "belongs to nobody",
        (MAIL, MAIL, 0o666): "can be changed by others",
    }
    safe = ((MAIL, MAIL, 0o660), (0, MAIL, 0o660), (0, 0, 0o644), (0, 0, 0o664), (0, MAIL, 0o640))
    for owner, group, mode in (*faults, *safe):
        config = mail_home.folder / f"{owner}-{group}-{mode}.toml"
        config.touch()
        os.chown(config, owner, group)
        config.chmod(mode)
    names = [f"{owner}-{group}-{mode}.toml" for owner, group, mode in (*faults, *safe)]
    results = each_as_mail(mail_home, [("--config", name, "stats") for name in names])
    refused, accepted = results[: len(faults)], results[len(faults) :]
    for done, fault in zip(refused, faults.values(), strict=True):
        assert (done.status, fault in done.err) == (3, True), done.err
    assert len(accepted) == len(safe)
    for done in accepted:
        assert "cannot use" not in done.err


@needs_root
@pytest.mark.parametrize(
    ("mode", "folder_mode"),
    [
        pytest.param(0o444, 0o555, marks=pytest.mark.slow),
        (0o440, 0o550),
        pytest.param(0o400, 0o500, marks=pytest.mark.slow),
    ],
)
def test_credential_of_systemd(mail_home: Home, mode: int, folder_mode: int) -> None:
    """LoadCredential: read-only files of root, which the service can read by an access list or as their owner."""
    credentials = mail_home.folder.parent / "credentials"
    credentials.mkdir()
    file = credentials / "smtp-password"
    file.write_text(f"{SECRET}\n")
    owner = MAIL if mode == 0o400 else 0
    for path, bits in ((file, mode), (credentials, folder_mode)):
        os.chown(path, owner, MAIL)
        path.chmod(bits)
    assert as_mail(mail_home, "init", "--email", "ada@skychimp.test").status == 0
    config = mail_home.folder / ".config/skychimp/skychimp.toml"
    config.write_text(LOGIN + "[mail]\ntransport = 'smtp'\nsender = 'a@b.example'\n")
    done = as_mail(mail_home, "doctor", SKYCHIMP_SMTP__PASSWORD_FILE=str(file))
    assert "cannot connect to 127.0.0.1:1" in done.out
    assert "smtp-password" not in done.out or mode == 0o444  # which all can read


@needs_root
@pytest.mark.parametrize("mode", [*(pytest.param(mode, marks=pytest.mark.slow) for mode in (0o644, 0o444)), 0o440])
def test_secret_of_kubernetes(mail_home: Home, mode: int) -> None:
    """A volume that everybody can write to, with a link through another link into a dated folder of root."""
    volume = mail_home.folder.parent / "volume"
    volume.mkdir()
    volume.chmod(0o1777)
    dated = volume / "..2026_11_28_08_00_00.123"
    dated.mkdir(mode=0o755)
    (dated / "skychimp.toml").write_text(LOGIN + "password_file = 'password'\n")
    (dated / "password").write_text(SECRET)
    for file in dated.iterdir():
        os.chown(file, 0, MAIL)
        file.chmod(mode)
        (volume / file.name).symlink_to(f"..data/{file.name}")
    (volume / "..data").symlink_to(dated.name)
    done = as_mail(mail_home, "--config", str(volume / "skychimp.toml"), "doctor")
    config = next(line for line in done.out.splitlines() if "\tconfig\t" in line)
    assert config == f"ok\tconfig\t{volume}/skychimp.toml; emails are sent from Ada <ada@skychimp.test>\t"


@needs_root
def test_secret_of_docker(mail_home: Home) -> None:
    """A file of root, mode 0444, in a folder of root."""
    secrets = mail_home.folder.parent / "secrets"
    secrets.mkdir(mode=0o755)
    (secrets / "smtp").write_text(SECRET)
    (secrets / "smtp").chmod(0o444)
    (mail_home.folder / "c.toml").write_text(LOGIN + f"password_file = '{secrets}/smtp'\n")
    done = as_mail(mail_home, "--config", "c.toml", "doctor")
    assert not [line for line in done.out.splitlines() if line.startswith("problem\tconfig")]


@needs_root
def test_folder_that_may_not_be_listed(mail_home: Home) -> None:
    folder = mail_home.folder.parent / "etc"
    folder.mkdir(mode=0o711)
    (folder / "c.toml").write_text("mail.timezone = 'Asia/Tokyo'\n")
    done = as_mail(mail_home, "-v", "--config", str(folder / "c.toml"), "stats")
    assert done.err.startswith(f"config: {folder}/c.toml\n")


def test_config_that_a_dotfiles_program_links(home: Home) -> None:
    usual, dotfiles = home.folder / ".config/skychimp", home.folder / "dotfiles/skychimp"
    dotfiles.parent.mkdir()
    usual.rename(dotfiles)
    usual.symlink_to("../dotfiles/skychimp")  # the whole folder
    assert home.call("-v", "stats").err.startswith(f"config: {usual}/skychimp.toml\n")
    usual.unlink()
    usual.mkdir()
    (usual / "skychimp.toml").symlink_to("../../dotfiles/skychimp/skychimp.toml")  # only the file
    (usual / ".env").symlink_to("../../dotfiles/skychimp/.env")
    (dotfiles / ".env").write_text("SKYCHIMP_STORE=moved.db\n")
    done = home.call("-v", "status")
    assert done.err.splitlines()[:2] == [f"config: {usual}/skychimp.toml", f"store:  {usual}/moved.db"]


def test_config_of_the_current_folder_is_used_there_if_it_is_the_usual_one(home: Home) -> None:
    folder = home.folder / ".config/skychimp"
    done = Home(folder, HOME=str(home.folder)).call("-v", "stats")
    assert done.err.startswith(f"config: {folder}/skychimp.toml\n")


def test_dev_null_stands_for_no_config(home: Home) -> None:
    done = home.call("-v", "stats", environ={"SKYCHIMP_CONFIG": "/dev/null"})
    assert (done.status, done.err.splitlines()[0]) == (0, "config: /dev/null")
