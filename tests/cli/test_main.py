"""Test the core of the command line: help, usage errors, exit statuses, streams, completion and imports."""

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
from skychimp.cli import main, registry
from skychimp.cli.help_pages import leaves
from skychimp.translation import in_language, translated


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Return a command line with a store, an administrator who is logged in, and a client."""
    home = Home(tmp_path_factory.mktemp("home"))
    assert home.call("init", "--email", "you@example.org").status == 0
    assert home.call("clients", "create", "--email", "ada@example.org").status == 0
    return home


def is_group(path: tuple[str, ...]) -> bool:
    """Return whether these words are those of a group, not of a command."""
    return path == () or (len(path) == 1 and hasattr(registry.load_command(path[0]), "commands"))


def every_command() -> Iterator[tuple[str, ...]]:
    """Yield the words of each command and group."""
    root = registry.command_line()
    yield ()
    for name in registry.COMMANDS:
        _, command, _ = root.resolve_command(root.make_context("skychimp", [name]), [name])
        yield (name,)
        yield from ((name, each) for each in getattr(command, "commands", {}))


# Help


@pytest.mark.parametrize("path", list(every_command()), ids=" ".join)
def test_help_of_every_command(path: tuple[str, ...], tmp_path: Path) -> None:
    home = Home(tmp_path, COLUMNS="200")
    long, short = home.call(*path, "--help"), home.call(*path, "-h")
    assert (long.status, long.err) == (0, "")
    assert long == short
    assert f"Usage: {' '.join(('skychimp', *path))} " in long.out
    assert "<bool>" not in long.out
    assert ("--install-completion" in long.out) == (path == ())
    example = long.out.find(f"$ {' '.join(('skychimp', *path))}")
    assert example < long.out.index("─ Options ")
    if is_group(path):
        commands = long.out.index("─ Commands " if path else "─ Core commands ")
        assert 0 < example < commands < long.out.index("─ Options ")


@pytest.mark.parametrize("path", [path for path in every_command() if len(path) == 1 and is_group(path)], ids=" ".join)
def test_help_of_a_group_fits_the_screen(path: tuple[str, ...], tmp_path: Path) -> None:
    shown = Home(tmp_path, COLUMNS="80", LINES="24").call(*path, "--help").out
    assert len(shown.strip(" \n").splitlines()) < 24


@pytest.mark.parametrize(
    ("path", "usage"),
    [
        ((), "skychimp [OPTIONS] <COMMAND> [ARGS]..."),
        (("clients",), "skychimp clients [OPTIONS] <COMMAND> [ARGS]..."),
        (("clients", "list"), "skychimp clients list [OPTIONS]"),
        (("users", "role"), "skychimp users role [OPTIONS] <USER> <ROLE>"),
        (("resolve",), "skychimp resolve [OPTIONS] [<ID>]..."),
        (("backup",), "skychimp backup [OPTIONS] <FILE>"),
        (("help",), "skychimp help [OPTIONS] [<TOPIC>]..."),
    ],
)
def test_usage_line(path: tuple[str, ...], usage: str, tmp_path: Path) -> None:
    assert f"Usage: {usage}" in [line.strip() for line in Home(tmp_path).call(*path, "--help").out.splitlines()]


def test_no_argument_shows_its_type_unless_it_is_a_choice(tmp_path: Path) -> None:
    assert "<str>" not in Home(tmp_path).call("clients", "show", "--help").out
    assert "<user|manager|editor|admin>" in Home(tmp_path, COLUMNS="120").call("users", "role", "--help").out


def test_every_command_has_json_output() -> None:
    """Except the one that writes CSV, and the one that does not end."""
    commands_without = []
    for name in registry.COMMANDS:
        root = registry.command_line()
        _, command, _ = root.resolve_command(root.make_context("skychimp", [name]), [name])
        commands_without += [
            f"{name} {each}".strip() for each, leaf in leaves(command).items() if "--json" not in options(leaf)
        ]
    assert set(commands_without) <= {"clients export", "daemon", "serve"}


def options(command: Any) -> set[str]:
    return {name for param in command.params for name in param.opts}


def test_help_is_shown_without_a_command(tmp_path: Path) -> None:
    for path in ((), ("clients",)):
        done = Home(tmp_path).call(*path)
        assert (done.status, done.err) == (2, "")
        assert "Usage: " in done.out


def test_singular_of_a_command_is_understood(home: Home) -> None:
    assert home.call("client", "list", "--bogus") == home.call("clients", "list", "--bogus")


def test_version(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for arguments in (("--version",), ("-q", "--version"), ("--version", "bogus")):
        assert home.call(*arguments).out == f"skychimp {skychimp.__version__}\n"
    as_module = subprocess.run([sys.executable, "-m", "skychimp", "-q", "--version"], capture_output=True, check=True)
    assert as_module.stdout == home.run("--version").out.encode()


# Usage errors and other errors


@pytest.mark.parametrize(
    ("typed", "message", "hint"),
    [
        ("cleints list", 'unknown command "cleints"', "did you mean clients?"),
        ("clients lst", 'unknown command "lst"', "did you mean list?"),
        ("clients import2", 'unknown command "import2"', "did you mean import?"),
        (
            "import x.csv",
            'unknown command "import"',
            "did you mean skychimp clients import or skychimp suppressions import?",
        ),
        ("xyzzy", 'unknown command "xyzzy"', 'run "skychimp --help"'),
        ("delete 5", 'unknown command "delete"', 'run "skychimp --help"'),
        ("users role x editer", 'invalid value for <ROLE>: "editer" is not one of', "did you mean editor?"),
        ("clients create --emial a@b", "unknown option --emial", "did you mean --email?"),
        ("clients create", "missing option --email", 'run "skychimp clients create --help"'),
        ("clients create --email", "option --email requires a value", 'run "skychimp --help"'),
        ("clients show", "missing argument <CLIENT>", 'run "skychimp clients show --help"'),
        ("clients list all", "unexpected argument: all", 'run "skychimp clients list --help"'),
        ("clients list --limit=-1", "invalid value for --limit: must be at least 0", "skychimp clients list --help"),
        ("messages show x", "invalid value for <ID>: must be an integer", "skychimp messages show --help"),
        ("mailings create --every year", '"year" is not one of "once", "day", "week", "month"', "--help"),
        ("clients list -q", "unknown option -q", "write it before the command: skychimp -q clients list"),
        ("clients list --store=x", "unknown option --store", "before the command: skychimp --store STORE clients list"),
        ("-q -v clients list", "--quiet and --verbose cannot be combined", "use one of them"),
        ("--store", "option --store requires a value", 'run "skychimp --help"'),
        ("clients list \x1b[31m\u202e", "\\u202e", "skychimp clients list --help"),
    ],
)
def test_usage_error_is_one_line_with_a_hint(home: Home, typed: str, message: str, hint: str | None) -> None:
    done = home.call(*typed.split(" "))
    assert done.err.replace("\n", "").isprintable()
    error, *hints = done.err.splitlines()
    assert (done.status, done.out) == (2, "")
    assert error.startswith("error: ")
    assert message in error
    assert [line.startswith("hint: ") and (hint or "") in line for line in hints] == ([True] if hint else [])


@pytest.mark.parametrize(
    ("message", "in_russian"),
    [
        ('unknown command "cleints"', 'неизвестная команда "cleints"'),
        ("unknown option --emial", "неизвестный параметр --emial"),
        ("missing option --email", "не указан параметр --email"),
        ("missing argument <CLIENT>", "не указан аргумент <CLIENT>"),
        ("missing command", "не указана команда"),
        ("option --email requires a value", "не указано значение параметра --email"),
        ("option --json does not take a value", "параметр --json не принимает значение"),
        ("unexpected argument: all {x}", "лишний аргумент: all {x}"),
        ("invalid value for --limit: must be at least 0", "неверное значение --limit: нужно не меньше 0"),
        ("invalid value for <ID>: must be an integer", "неверное значение <ID>: нужно целое число"),
        (
            'invalid value for --every: "year" is not one of "day", "week"',
            'неверное значение --every: вместо "year" нужно одно из: "day", "week"',
        ),
        ("something new in Typer", "something new in Typer"),
    ],
)
def test_usage_error_in_russian(message: str, in_russian: str) -> None:
    phrase = main.usage_phrase(message)
    assert phrase == message
    with in_language("ru"):
        assert translated(phrase) == in_russian


def test_error_is_in_russian_for_a_person_only(home: Home) -> None:
    arguments = ("--lang", "ru", "mailings", "create", "--every", "days")
    done = home.run(*arguments)
    assert done.err.splitlines() == [
        'ошибка: неверное значение --every: вместо "days" нужно одно из: "once", "day", "week", "month"',
        "подсказка: возможно, вы имели в виду day?",
    ]
    assert '"message": "invalid value for --every: ' in home.run(*arguments, "--json").err


def test_current_folder_that_was_deleted(home: Home, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    delete_and_call = 'rmdir "$PWD" && exec "$0" trust'
    done = subprocess.run(
        ["sh", "-c", delete_and_call, PROGRAM], cwd=gone, env=home.environ, capture_output=True, text=True, check=False
    )
    expected = "error: the current folder does not exist\nhint: change to another folder\n"
    assert (done.returncode, done.stderr) == (1, expected)


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
def test_json_errors(home: Home, arguments: list[str], status: int, code: str) -> None:
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
def test_json_as_a_value_does_not_switch_the_output(home: Home, arguments: list[str]) -> None:
    done = home.call(*arguments)
    assert done.status
    assert done.err.startswith("error: ")


def test_error_without_a_login(home: Home) -> None:
    done = home.call("clients", "list", environ={"XDG_STATE_HOME": str(home.folder / "other")})
    assert (done.status, done.out) == (5, "")
    assert done.err == 'error: you are not logged in\nhint: run "skychimp login --email YOU@EXAMPLE.ORG"\n'


def test_error_with_an_invalid_token(home: Home) -> None:
    done = home.call("clients", "list", environ={"SKYCHIMP_TOKEN": "\udcffnobody's"})
    assert done.status == 5
    assert done.err == (
        "error: the token in SKYCHIMP_TOKEN is not valid\n"
        'hint: get a new one with "skychimp login --email YOU@EXAMPLE.ORG --print-token"\n'
    )
    assert home.call("blog", "list", environ={"SKYCHIMP_TOKEN": "nobody's"}).status == 0


def test_postgresql_error_does_not_show_the_password(home: Home) -> None:
    """Nobody listens on port 9, of this machine."""
    url = "postgresql+psycopg://ada:hunter2@127.0.0.1:9/skychimp"
    for command in (["clients", "list"], ["init", "--email", "a@b.example"]):
        done = home.call("-v", *command, environ={"SKYCHIMP_STORE": url})
        assert (done.status, "Connection refused" in done.err) == (1, True)
        assert "hunter2" not in done.err


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (ZeroDivisionError("one\ntwo"), 1, "error: unexpected ZeroDivisionError at "),
        (OSError(28, "No space left on device", "/x"), 1, "error: /x: No space left on device"),
        (MemoryError(), 1, "error: not enough memory\n"),
        (ImportError("x.so: failed to map segment from shared object"), 1, "error: not enough memory\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_have_no_traceback(
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


@pytest.mark.parametrize("module", ["typer", "skychimp.cli.output", "sqlalchemy"])
def test_ctrl_c_while_importing(home: Home, module: str) -> None:
    done = run_without(home, module, "KeyboardInterrupt")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("module", ["typer", "skychimp.cli.output"])
def test_interrupt_that_the_import_system_would_swallow_ends_the_command(home: Home, module: str) -> None:
    program = f"""
import os, signal, sys, weakref
from skychimp.cli.main import main
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            weakref.finalize(Finder(), os.kill, os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv[1:] = ["clients", "list"]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=home.environ, cwd=home.folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("module", ["typer", "skychimp.cli.commands.clients", "sqlalchemy"])
def test_missing_module(home: Home, module: str) -> None:
    done = run_without(home, module, "ModuleNotFoundError('no such module')")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "no such module" in done.stderr
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("raised", ["MemoryError", "ImportError('x.so: failed to map segment from shared object')"])
def test_too_little_memory_to_start(home: Home, raised: str) -> None:
    done = run_without(home, "typer", raised)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: not enough memory\n")


def test_ctrl_c_at_a_question(tmp_path: Path) -> None:
    done = Home(tmp_path).on_terminal("init", answers=[("Email:", "\x03")])
    assert done.status == 130
    assert "Traceback" not in done.out


def test_interrupt_signal(home: Home) -> None:
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

CANNOT_WRITE = (
    "error: cannot write the output: No space left on device\nhint: any change that the command made is kept\n"
)


def test_closed_pipe_is_silent(home: Home) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for arguments in (["clients", "list"], ["clients", "list", "--json"], ["--help"], ["--version"]):
        done = home.run(*arguments, stdout=writer)
        assert (done.status, done.err) == (141, "")
    os.close(writer)


def test_closed_stderr_is_ignored(home: Home) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = home.run("-v", "clients", "show", "1", "--json", stderr=writer)
    os.close(writer)
    assert (done.status, done.json["email"]) == (0, "ada@example.org")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full does not exist")
def test_error_if_stdout_cannot_be_written(home: Home) -> None:
    with Path("/dev/full").open("wb") as full:
        for arguments in (["clients", "list"], ["--help"], ["clients", "create", "--email", "new@example.org"]):
            done = home.run(*arguments, stdout=full)
            assert (done.status, done.err) == (1, CANNOT_WRITE)
        for unbuffered in ("", "1"):
            done = home.run("--version", stdout=full, environ={"PYTHONUNBUFFERED": unbuffered})
            assert (done.status, done.err) == (1, CANNOT_WRITE)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full does not exist")
def test_error_if_much_output_cannot_be_written(home: Home) -> None:
    """More than the buffer holds, so that the command itself gets the error, after its work is done."""
    with Path("/dev/full").open("wb") as full:
        create = ("clients", "create", "--email", "long@example.org", "--comment", "x" * 10_000)
        done = home.run(*create, stdout=full)
        assert (done.status, done.err) == (1, CANNOT_WRITE)
    assert home.call(*create).status == 6


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_closed_standard_stream(home: Home, closed: int) -> None:
    done = home.run("clients", "show", "1", preexec_fn=lambda: os.close(closed))
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("id\t1\n") == (closed != 1)


def test_argument_that_is_not_utf_8(home: Home) -> None:
    for more in ([], ["--json"]):
        done = home.run("clients", "show", os.fsdecode(b"\xff@example.org"), *more, environ={"LC_ALL": "C.UTF-8"})
        assert done.status in (2, 4)
        assert "\\udcff" in done.err


# Color, --quiet and --verbose


def test_color_only_on_a_terminal_that_wants_it(home: Home) -> None:
    def error(*options: str, **environ: str) -> str:
        return home.call(*options, "clients", "show", "99", width=80, environ=environ).err

    real = home.on_terminal("clients", "show", "99").out
    assert real.startswith("\x1b[1;31merror:\x1b[0m client 99 not found")
    assert error() == real
    for plain in (error("--no-color"), error(NO_COLOR="1"), error(TERM="dumb")):
        assert plain.startswith("error: client 99 not found")
    assert "\x1b[1;31m" in error(NO_COLOR="")
    colored = home.on_terminal("--help").out
    assert "\x1b[1;36m" in colored
    for plain in (
        home.call("--no-color", "--help", width=80).out,
        home.call("--help", width=80, environ={"NO_COLOR": "1"}).out,
    ):
        assert "\x1b[1;36m" not in plain
    assert "\x1b" not in home.call("--help", width=80, environ={"TERM": "dumb"}).out


def test_verbose_shows_config_and_store(home: Home) -> None:
    done = home.call("-v", "clients", "list")
    config, store = done.err.splitlines()
    assert config == f"config: {home.folder}/.config/skychimp/skychimp.toml"
    assert store == f"store:  {home.folder}/.local/share/skychimp/skychimp.db"
    assert home.call("clients", "list").err == ""


def test_quiet_shows_errors_only(home: Home, tmp_path: Path) -> None:
    assert Home(tmp_path).call("-q", "init", "--email", "a@b.example").err == ""
    assert home.call("-q", "clients", "show", "99").err.startswith("error: ")


def test_confirmation_is_asked_on_a_terminal_only(home: Home) -> None:
    delete = ("clients", "delete", "1")
    for done in (home.call(*delete), home.call("--no-input", *delete, width=80)):
        assert done.status == 2
        assert "hint: pass --yes" in done.err + done.out
    assert "cancelled" in home.on_terminal(*delete, answers=[("[y/N] ", "n\n")]).out
    for answer in ("\n", "n\n", "what\n"):
        assert "cancelled" in home.call(*delete, width=80, stdin=answer).err
    assert home.on_terminal(*delete, answers=[("[y/N] ", "\x04")]).status == 130
    assert home.call("clients", "show", "1").status == 0


# Completion


def test_invalid_request_for_completions(home: Home) -> None:
    done = home.call("stats", environ={"_SKYCHIMP_COMPLETE": "garbage"})
    error = 'error: invalid value "garbage" of _SKYCHIMP_COMPLETE\nhint: unset _SKYCHIMP_COMPLETE\n'
    assert (done.status, done.out, done.err) == (2, "", error)


@pytest.mark.parametrize(
    ("line", "suggestions"),
    [
        ("skychimp cl", {"clients"}),
        ("skychimp clients cr", {"create"}),
        ("skychimp clients create --em", {"--email"}),
        ("skychimp run --d", {"--dry-run"}),
        ("skychimp mailings create --every m", {"month"}),
        ("skychimp nonsense x", set()),
    ],
)
def test_completion(tmp_path: Path, line: str, suggestions: set[str]) -> None:
    environ = {"_SKYCHIMP_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = Home(tmp_path).call(environ=environ)
    assert (done.status, set(done.out.split()), done.err) == (0, suggestions, "")


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


# Imports


HEAVY = {
    "sqlalchemy",
    "sqlalchemy.orm",
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
    "cryptography",
    "dns",
}
NEEDED_FOR_HELP = {"markdown_it"}
"""By Typer. It also needs Pydantic for options."""


@pytest.mark.parametrize(
    ("arguments", "unneeded"),
    [
        (["--version"], HEAVY | {"typer", "rich", "pydantic"}),
        (["--help"], HEAVY | {"pydantic", "skychimp.config.settings"}),
        (["clients", "create", "--help"], HEAVY - NEEDED_FOR_HELP | {"skychimp.config.settings"}),
        (["clients", "nonsense"], HEAVY | {"rich", "skychimp.config.settings"}),
        (["clients", "list"], HEAVY - {"sqlalchemy"} | {"rich"}),
        (["mailings", "list"], HEAVY - {"sqlalchemy"} | {"rich"}),
        (["stats"], HEAVY - {"sqlalchemy", "dogpile"} | {"rich"}),
        (["run"], HEAVY - {"sqlalchemy", "uvloop"} | {"rich"}),
        pytest.param(["blog", "list"], HEAVY - {"sqlalchemy"} | {"rich"}, marks=pytest.mark.slow),
        pytest.param(["messages", "list"], HEAVY - {"sqlalchemy"} | {"rich"}, marks=pytest.mark.slow),
        pytest.param(["status"], HEAVY - {"sqlalchemy"} | {"rich"}, marks=pytest.mark.slow),
    ],
)
def test_no_unneeded_module_is_imported(home: Home, arguments: list[str], unneeded: set[str]) -> None:
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


def test_registry_and_modules_agree() -> None:
    for name in registry.COMMANDS:
        module = __import__(f"skychimp.cli.commands.{name}", fromlist=["app"])
        command = get_command(module.app)
        assert isinstance(command, TyperCommand) == (not hasattr(command, "commands"))
        assert bool(registry.COMMANDS[name].example) == hasattr(command, "commands")
        assert registry.load_command(name).help
