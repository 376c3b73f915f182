"""The skeleton: help, mistakes, exit statuses, streams, completion, and what is imported for it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command import PROGRAM, Home
from typer.core import TyperCommand
from typer.main import get_command

import skychimp
from skychimp.cli import registry


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a store, an administrator who is logged in, and a client."""
    made = Home(tmp_path_factory.mktemp("home"))
    assert made.call("init", "--email", "you@example.org").status == 0
    assert made.call("clients", "create", "--email", "ada@example.org").status == 0
    return made


def every_command() -> Iterator[tuple[str, ...]]:
    """The path of each command and group."""
    root = registry.command_line()
    yield ()
    for name in registry.COMMANDS:
        _, command, _ = root.resolve_command(root.make_context("skychimp", [name]), [name])
        yield (name,)
        yield from ((name, each) for each in getattr(command, "commands", {}))


# Help


@pytest.mark.parametrize("path", list(every_command()), ids=" ".join)
def test_help_everywhere(path: tuple[str, ...], tmp_path: Path) -> None:
    home = Home(tmp_path, COLUMNS="200")
    long, short = home.call(*path, "--help"), home.call(*path, "-h")
    assert (long.status, long.err) == (0, "")
    assert long == short
    assert f"Usage: {' '.join(('skychimp', *path))} " in long.out
    assert "<bool>" not in long.out
    assert ("--install-completion" in long.out) == (path == ())
    example = long.out.find(f"$ {' '.join(('skychimp', *path))}")
    assert example < long.out.index("Options")


def test_every_command_answers_in_json() -> None:
    """All but the one whose answer is CSV, and the one that goes on and on."""
    without = []
    for name in registry.COMMANDS:
        root = registry.command_line()
        _, command, _ = root.resolve_command(root.make_context("skychimp", [name]), [name])
        parts = getattr(command, "commands", {"": command})
        without += [f"{name} {part}".strip() for part, each in parts.items() if "--json" not in options(each)]
    assert set(without) <= {"clients export", "daemon"}


def options(command: Any) -> set[str]:
    return {name for param in command.params for name in param.opts}


def test_without_a_command_the_help_is_shown(tmp_path: Path) -> None:
    for path in ((), ("clients",)):
        done = Home(tmp_path).call(*path)
        assert (done.status, done.err) == (2, "")
        assert "Usage: " in done.out


def test_the_version(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for arguments in (("--version",), ("-q", "--version"), ("--version", "bogus")):
        assert home.call(*arguments).out == f"skychimp {skychimp.__version__}\n"
    as_module = subprocess.run([sys.executable, "-m", "skychimp", "-q", "--version"], capture_output=True, check=True)
    assert as_module.stdout == home.run("--version").out.encode()


# Mistakes


@pytest.mark.parametrize(
    ("typed", "message", "hint"),
    [
        ("cleints list", "no such command 'cleints'", "did you mean clients?"),
        ("clients lst", "no such command 'lst'", "did you mean list?"),
        ("xyzzy", "no such command 'xyzzy'", "see skychimp --help"),
        ("clients create --emial a@b", "no such option: --emial", "did you mean --email?"),
        ("clients create", "missing option '--email'", "see skychimp clients create --help"),
        ("clients create --email", "option '--email' requires an argument", "see skychimp "),
        ("clients show", "missing argument 'CLIENT'", "see skychimp clients show --help"),
        ("clients list all", "got unexpected extra argument(s) (all)", "see skychimp clients list --help"),
        ("clients list --limit=-1", "'--limit': it should be greater than or equal to 0", "see skychimp clients list"),
        ("mailings show x", "invalid value for 'ID': it should be a valid integer", "see skychimp mailings show"),
        ("mailings create --every year", "'year' is not one of 'once', 'day', 'week', 'month'", "--help"),
        ("clients list -q", "no such option: -q", "it comes before the command: skychimp -q clients list ..."),
        ("clients list --store=x", "no such option: --store", "skychimp --store clients list ..."),
        ("-q -v clients list", "-q and -v can't go together", None),
        ("--store", "option '--store' requires an argument", "see skychimp --help"),
        ("clients list \x1b[31m\u202e", "\\u202e", "see skychimp clients list --help"),
    ],
)
def test_a_mistake_is_one_line_and_a_hint(home: Home, typed: str, message: str, hint: str | None) -> None:
    done = home.call(*typed.split(" "))
    assert done.err.replace("\n", "").isprintable()
    error, *hints = done.err.splitlines()
    assert (done.status, done.out) == (2, "")
    assert error.startswith("error: ")
    assert message in error
    assert [line.startswith("hint: ") and (hint or "") in line for line in hints] == ([True] if hint else [])


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["clients", "show", "99", "--json"], 4, "not_found"),
        (["--json", "clients", "show", "99"], 4, "not_found"),
        (["clients", "create", "--json", "--bogus"], 2, "invalid_value"),
        (["clients", "create", "--email", "a@b", "--json", "extra"], 2, "invalid_value"),
        (["cleints", "list", "--json"], 2, "invalid_value"),
        (["-q", "-v", "clients", "list", "--json"], 2, "invalid_value"),
        (["--store", "gone.db", "clients", "list", "--json"], 3, "store_not_ready"),
        (["--config", "gone.toml", "clients", "list", "--json"], 3, "config"),
        (["clients", "create", "--email", "ada@example.org", "--json"], 6, "conflict"),
    ],
)
def test_errors_in_json(home: Home, arguments: list[str], status: int, code: str) -> None:
    done = home.call(*arguments)
    assert (done.status, done.out, done.error["code"]) == (status, "", code)
    assert set(done.error) == {"code", "message", "hint"}
    assert done.error["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["clients", "create", "--email", "--json"],
        ["clients", "create", "--email", "--json", "--bogus"],
        ["--store", "--json", "clients", "list"],
        ["clients", "show", "--", "--json"],
    ],
)
def test_a_value_that_reads_json_asks_for_none(home: Home, arguments: list[str]) -> None:
    done = home.call(*arguments)
    assert done.status
    assert done.err.startswith("error: ")


def test_a_guest_is_told_to_log_in(home: Home) -> None:
    done = home.call("clients", "list", environ={"XDG_STATE_HOME": str(home.folder / "other")})
    assert (done.status, done.out) == (5, "")
    assert done.err == "error: you are not logged in\nhint: log in: skychimp login --email YOU@EXAMPLE.ORG\n"
    assert home.call("clients", "list", environ={"SKYCHIMP_TOKEN": "\udcffnobody's"}).status == 5


def test_a_postgresql_store_is_refused_without_its_password(home: Home) -> None:
    url = "postgresql+psycopg://ada:hunter2@db.example.org/skychimp"
    for command in (["clients", "list"], ["init", "--email", "a@b.example"]):
        done = home.call("-v", "--store", url, *command)
        assert done.status == 3
        assert "error: this version keeps its store in an SQLite file" in done.err
        assert "hunter2" not in done.err


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (ZeroDivisionError("one\ntwo"), 1, "error: unexpected ZeroDivisionError at "),
        (OSError(28, "No space left on device", "/x"), 1, "error: /x: No space left on device"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_no_traceback_ever(
    home: Home, monkeypatch: pytest.MonkeyPatch, raised: BaseException, status: int, line: str
) -> None:
    from skychimp.services.clients import clients

    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(clients, "show", fail)
    done = home.call("clients", "show", "1")
    assert done.status == status
    assert done.err.startswith(line)
    assert "Traceback" not in done.err
    assert "two" not in done.err


def run_without(home: Home, module: str, raised: str) -> subprocess.CompletedProcess[str]:
    """Run `clients list` in a process in which importing this module raises."""
    program = f"""
import sys
from skychimp.cli.main import main
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise {raised}
sys.meta_path.insert(0, Finder())
sys.argv[1:] = ["clients", "list"]
main()
"""
    return subprocess.run(
        [sys.executable, "-c", program], env=home.environ, cwd=home.folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("module", ["typer", "skychimp.cli.output", "sqlmodel"])
def test_ctrl_c_while_importing(home: Home, module: str) -> None:
    done = run_without(home, module, "KeyboardInterrupt")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("module", ["typer", "skychimp.cli.commands.clients", "sqlmodel"])
def test_a_module_that_is_missing(home: Home, module: str) -> None:
    done = run_without(home, module, "ModuleNotFoundError('there is none')")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "there is none" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_ctrl_c_at_a_question(tmp_path: Path) -> None:
    done = Home(tmp_path).on_terminal("init", answers=[("Your e-mail:", "\x03")])
    assert done.status == 130
    assert "Traceback" not in done.out


def test_a_signal_that_interrupts(home: Home) -> None:
    process = subprocess.Popen(
        [PROGRAM, "-v", "clients", "import", "-"],
        cwd=home.folder,
        env=home.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"config: ")
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() in (b"", f"store:  {home.folder}/.local/share/skychimp/skychimp.db\n".encode())
    assert process.returncode == 130


# Streams


def test_a_closed_pipe_is_silent(home: Home) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for arguments in (["clients", "list"], ["clients", "list", "--json"], ["--help"], ["--version"]):
        done = home.run(*arguments, stdout=writer)
        assert (done.status, done.err) == (141, "")
    os.close(writer)


def test_nobody_listens_on_stderr(home: Home) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = home.run("-v", "clients", "show", "1", "--json", stderr=writer)
    os.close(writer)
    assert (done.status, done.json["email"]) == (0, "ada@example.org")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_under_stdout(home: Home) -> None:
    with Path("/dev/full").open("wb") as full:
        for arguments in (["clients", "list"], ["--help"], ["--version"]):
            done = home.run(*arguments, stdout=full)
            assert done.status == 1
            assert done.err.startswith("error: ")
            assert done.err.endswith("No space left on device\n")


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_stream_that_is_not_there(home: Home, closed: int) -> None:
    done = home.run("clients", "show", "1", preexec_fn=lambda: os.close(closed))
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("id\t1\n") == (closed != 1)


def test_text_that_is_not_utf_8(home: Home) -> None:
    for more in ([], ["--json"]):
        done = home.run("clients", "show", os.fsdecode(b"\xff@example.org"), *more, environ={"LC_ALL": "C.UTF-8"})
        assert done.status in (2, 4)
        assert "\\udcff" in done.err


# Colour, and how much is said


def test_colour_on_a_terminal_only_where_it_is_wanted(home: Home) -> None:
    def error(*options: str, **environ: str) -> str:
        return home.on_terminal(*options, "clients", "show", "99", environ=environ).out

    assert error().startswith("\x1b[1;31merror:\x1b[0m there is no client")
    for plain in (error("--no-color"), error(NO_COLOR="1"), error(TERM="dumb")):
        assert plain.startswith("error: there is no client")
    assert "\x1b[1;31m" in error(NO_COLOR="")
    coloured = home.on_terminal("--help").out
    for plain in (
        home.on_terminal("--no-color", "--help").out,
        home.on_terminal("--help", environ={"NO_COLOR": "1"}).out,
    ):
        assert "\x1b[1;36m" in coloured
        assert "\x1b[1;36m" not in plain
    assert "\x1b" not in home.on_terminal("--help", environ={"TERM": "dumb"}).out


def test_verbose_says_what_is_used(home: Home) -> None:
    done = home.call("-v", "clients", "list")
    config, store = done.err.splitlines()
    assert config == f"config: {home.folder}/.config/skychimp/skychimp.toml"
    assert store == f"store:  {home.folder}/.local/share/skychimp/skychimp.db"
    assert home.call("clients", "list").err == ""


def test_quiet_says_only_what_went_wrong(home: Home, tmp_path: Path) -> None:
    assert Home(tmp_path).call("-q", "init", "--email", "a@b.example").err == ""
    assert home.call("-q", "clients", "show", "99").err.startswith("error: ")


def test_a_question_is_asked_on_a_terminal_only(home: Home) -> None:
    delete = ("clients", "delete", "1")
    for done in (home.call(*delete), home.on_terminal("--no-input", *delete)):
        assert done.status == 2
        assert "hint: say it with --yes" in done.err + done.out
    for answer in ("\n", "n\n", "what\n"):
        assert "not done" in home.on_terminal(*delete, answers=[("[y/N] ", answer)]).out
    assert home.on_terminal(*delete, answers=[("[y/N] ", "\x04")]).status == 130
    assert home.call("clients", "show", "1").status == 0


# Completion


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("skychimp cl", {"clients"}),
        ("skychimp clients cr", {"create"}),
        ("skychimp clients create --em", {"--email"}),
        ("skychimp run --d", {"--dry-run"}),
        ("skychimp mailings create --every m", {"month"}),
        ("skychimp nonsense x", set()),
    ],
)
def test_completion(tmp_path: Path, words: str, found: set[str]) -> None:
    environ = {"_SKYCHIMP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = Home(tmp_path).call(environ=environ)
    assert (done.status, set(done.out.split()), done.err) == (0, found, "")


def test_completion_in_bash(tmp_path: Path) -> None:
    script = f"""
export PATH="{PROGRAM.parent}:$PATH"
skychimp --install-completion > installed
source "$HOME/.bashrc"
COMP_WORDS=(skychimp mail) COMP_CWORD=1
_skychimp_completion skychimp
echo "${{COMPREPLY[@]}}"
[ "$(skychimp --show-completion)" = "$(cat "$HOME/.bash_completions/skychimp.sh")" ] && echo the same
"""
    done = subprocess.run(
        ["bash", "-c", script], env=Home(tmp_path).environ, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("mailings\nthe same\n", "")


# What is imported


HEAVY = {
    "sqlalchemy",
    "sqlmodel",
    "jinja2",
    "alembic",
    "email_validator",
    "argon2",
    "uvloop",
    "markdown_it",
    "PIL",
    "dogpile",
    "slugify",
}
NEEDED_FOR_HELP = {"markdown_it"}
"""By Typer; as is Pydantic, for options."""


@pytest.mark.parametrize(
    ("arguments", "unneeded"),
    [
        (["--version"], HEAVY | {"typer", "rich", "pydantic"}),
        (["--help"], HEAVY - NEEDED_FOR_HELP | {"pydantic", "skychimp.config.settings"}),
        (["clients", "create", "--help"], HEAVY - NEEDED_FOR_HELP | {"skychimp.config.settings"}),
        (["clients", "nonsense"], HEAVY | {"rich", "skychimp.config.settings"}),
        (["clients", "list"], HEAVY - {"sqlalchemy", "sqlmodel"} | {"rich"}),
        (["blog", "list"], HEAVY - {"sqlalchemy", "sqlmodel"} | {"rich"}),
        (["stats"], HEAVY - {"sqlalchemy", "sqlmodel", "dogpile"} | {"rich"}),
        (["messages", "list"], HEAVY - {"sqlalchemy", "sqlmodel"} | {"rich"}),
    ],
)
def test_only_what_is_needed_is_imported(home: Home, arguments: list[str], unneeded: set[str]) -> None:
    program = f"""
import sys
from skychimp.cli.main import main
sys.argv[1:] = {arguments}
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=home.environ, cwd=home.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 2)
    assert set(done.stderr.split()) & unneeded == set()


def test_the_table_and_the_modules_agree() -> None:
    for name in registry.COMMANDS:
        module = __import__(f"skychimp.cli.commands.{name}", fromlist=["app"])
        command = get_command(module.app)
        assert isinstance(command, TyperCommand) == (not hasattr(command, "commands"))
        assert command.help
