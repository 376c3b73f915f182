"""The entry point: from what was typed to an exit status; whatever goes wrong on the way is one line.

Nothing that takes time is imported up here: `--version` answers at once, and Ctrl-C leaves no traceback while the rest
is being imported.
"""

import gc
import os
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn

from skychimp import __version__

if TYPE_CHECKING:
    import typer

    from skychimp.errors import SkychimpError

INTERRUPTED = 130
COMPLETE = "_SKYCHIMP_COMPLETE"
"""In the environment where a shell asks what there is to complete."""


def main() -> NoReturn:
    """Run the command line and leave with its exit status."""
    try:
        sys.exit(_run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except ImportError as error:
        print(f"error: this installation is not whole: {error}\nhint: install it again", file=sys.stderr)  # noqa: T201
        sys.exit(1)


def _run(arguments: list[str]) -> int:
    gc.disable()  # it takes a tenth of the start-up; Context.store lets it go on
    if "--no-color" in arguments:
        os.environ["NO_COLOR"] = "1"  # for Rich, Typer and the demo's commands, too

    from skychimp.cli.output import Output, prepare_streams

    prepare_streams()
    if arguments == ["--version"]:
        print(f"skychimp {__version__}")  # noqa: T201
        return Output().finish(0)

    from skychimp.cli.context import Context

    here = Context()
    here.out.json = "--json" in arguments  # until the command has read its options
    try:
        return here.out.finish(_call(here, arguments))
    finally:
        here.close()


def _call(here: Any, arguments: list[str]) -> int:
    """Run the command; its exit status. Raises KeyboardInterrupt, and ImportError where Typer itself is missing."""
    from skychimp.cli.output import PIPE_CLOSED

    try:
        from skychimp.cli.registry import command_line

        if os.environ.get(COMPLETE) == "complete_bash":
            from skychimp.cli.completion import join_words

            os.environ |= join_words(os.environ)
        status = command_line().main(arguments, prog_name="skychimp", standalone_mode=False, obj=here)
    except SystemExit as leaving:  # Typer's, once it has printed or installed the completion; Rich's in a closed pipe
        status = PIPE_CLOSED if isinstance(leaving.__context__, BrokenPipeError) else leaving.code
    except BrokenPipeError:
        status = PIPE_CLOSED
    except Exception as error:
        if COMPLETE in os.environ:  # a shell waits: an error would stand in the middle of what is typed
            return 0
        import typer

        if type(error).__name__ == "NoArgsIsHelpError":  # the help is on the screen
            return 2
        if isinstance(error, typer.TyperException):
            here.out.json = _asks_for_json(arguments, getattr(error, "ctx", None))
        plain = _explain(error)
        here.out.error(plain)
        return plain.exit_status
    return status if isinstance(status, int) else 0


def _explain(error: Exception) -> "SkychimpError":
    """The error that a person sees for anything that was raised."""
    import typer

    from skychimp.errors import Interrupted, SkychimpError

    if isinstance(error, SkychimpError):
        return error
    if isinstance(error, typer.TyperException):
        return _wrong_usage(error)
    if isinstance(error, typer.Abort):
        return Interrupted("aborted")
    if isinstance(error, OSError) and error.strerror:
        return SkychimpError(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{os.path.basename(place.tb_frame.f_code.co_filename)}:{place.tb_lineno}" if place else "nowhere"
    words = str(error).partition("\n")[0]
    return SkychimpError(
        f"unexpected {type(error).__name__} at {where}: {words}", "this is a defect of Skychimp; please report it"
    )


def _wrong_usage(error: "typer.TyperException") -> "SkychimpError":
    """Typer's error in our words, with what was meant, or where to read about it, as the hint."""
    from skychimp.errors import InvalidValue

    words = " ".join(error.format_message().split()).replace("Value error, ", "").replace("Input should", "it should")
    message, _, meant = words.partition(". Did you mean ")
    if similar := getattr(error, "possibilities", None):
        message, meant = error.message, similar[0]
    context, option = getattr(error, "ctx", None), getattr(error, "option_name", None)
    if context is None:
        hint = "see skychimp --help"
    elif context.parent and option in _options(context.find_root().command):
        hint = f"it comes before the command: skychimp {option} {context.command_path.partition(' ')[2]} ..."
    elif meant:
        hint = f"did you mean {meant.rstrip('?').replace(chr(39), '')}?"
    else:
        hint = f"see {context.command_path} --help"
    return InvalidValue(message[:1].lower() + message[1:].rstrip("."), hint)


def _asks_for_json(arguments: list[str], context: Any) -> bool:
    """Whether `--json` was typed as an option, not as another option's value."""
    commands = [context.command, context.find_root().command] if context else []
    taking = {name for command in commands for name, flag in _options(command).items() if not flag}
    before_dashes = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return any(word == "--json" and before not in taking for before, word in pairwise(["", *before_dashes]))


def _options(command: Any) -> dict[str, bool]:
    """A command's options, as its help shows them, and whether each is a flag."""
    shown = [param for param in command.params if not getattr(param, "hidden", False)]
    return {name: getattr(param, "is_flag", False) for param in shown for name in param.opts}
