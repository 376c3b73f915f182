"""The entry point: a table of commands that are imported when they are asked for, and errors as exit statuses.

`--help` and `--version` import neither SQLAlchemy nor anything else that a command needs.
"""

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

from skychimp import __version__

if sys.argv[1:] == ["--version"]:
    print(f"skychimp {__version__}")  # noqa: T201
    sys.exit(0)

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from skychimp.cli.context import Context, Options
from skychimp.cli.output import Output, escape
from skychimp.errors import InvalidValue, SkychimpError

COMMANDS = {
    "init": ("Set up", "Make the config, the store and the first administrator."),
    "demo": ("Set up", "See the whole story in a throw-away store."),
    "clients": ("Mail", "Whom you write to."),
    "messages": ("Mail", "What you write."),
    "mailings": ("Mail", "What goes to whom, and when."),
    "run": ("Send", "Send what is due, once."),
}


class _LazyGroup(TyperGroup):
    """Knows every command by name and help; imports the one that is called."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        for name, (panel, help_line) in COMMANDS.items():
            self.add_command(TyperCommand(name, help=help_line, rich_help_panel=panel))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            command = get_command(importlib.import_module(f"skychimp.cli.{name}").app)
            command.name = name
        return name, command, rest


app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with [bold]skychimp demo[/bold], or with [bold]skychimp init[/bold].",
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"skychimp {__version__}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _globals(
    ctx: typer.Context,
    config: Annotated[Path | None, typer.Option(help="The config file.", metavar="FILE")] = None,
    store: Annotated[str | None, typer.Option(help="The store: a path or a URL.", metavar="STORE")] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say less: no hints, no progress.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say which config and store are used.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours; NO_COLOR does the same.")] = False,
    no_input: Annotated[bool, typer.Option("--no-input", help="Never ask.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A mailing service that lives in a terminal: nothing lost, nothing twice."""
    if quiet and verbose:
        raise InvalidValue("-q and -v can't go together")
    ctx.obj = Context(Options(config, store, quiet, verbose, no_color, no_input))


def main() -> NoReturn:
    """Run the command line and leave with its exit status."""
    arguments = sys.argv[1:]
    out = Output(json="--json" in arguments, quiet=False, color="--no-color" not in arguments)
    try:
        status = get_command(app).main(arguments, prog_name="skychimp", standalone_mode=False)
    except SkychimpError as error:
        out.error(error)
        status = error.exit_status
    except typer.Abort:
        out.error(SkychimpError("aborted"))
        status = 130
    except typer.TyperException as error:
        status = _usage(out, error)
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        status = 141  # what a shell says of a command that SIGPIPE ended
    except Exception as error:
        out.error(
            SkychimpError(
                f"unexpected: {type(error).__name__}: {error}", "this is a defect of Skychimp; please report it"
            )
        )
        status = 1
    sys.exit(out.finish(status if isinstance(status, int) else 0))


def _usage(out: Output, error: typer.TyperException) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":  # the help is on the screen already
        return error.exit_code
    context = getattr(error, "ctx", None)
    hint = f"see {context.command_path} --help" if context is not None else None
    failure = InvalidValue(" ".join(escape(error.format_message()).split()), hint)
    out.error(failure)
    return error.exit_code
