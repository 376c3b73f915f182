"""Run the command line: from the arguments to an exit status. Every error becomes one line, never a traceback.

Nothing slow is imported at the top, so that `--version` answers at once and Ctrl-C during the other imports leaves no
traceback.
"""

import gc
import os
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn

from skychimp import __version__
from skychimp.cli import interrupts
from skychimp.text import NO_TEXT
from skychimp.translation import Phrase, tr, translated, verbatim

if TYPE_CHECKING:
    import typer

    from skychimp.errors import SkychimpError

COMPLETE = "_SKYCHIMP_COMPLETE"
"""The environment variable with which a shell asks for completions."""

TRY_AGAIN = 75
"""EX_TEMPFAIL of sysexits.h."""

_OUT_OF_MEMORY = tr("not enough memory")

_REWORDINGS = (
    (r"Value error, ", ""),
    (r"Input should be greater than or equal to", "must be at least"),
    (r"Input should be", "must be"),
    (r"a valid integer, unable.*", "an integer"),
    (r"Got unexpected extra argument\S* \((.*)\)", r"unexpected argument: \1"),
    (r"No such command", "unknown command"),
    (r"No such option:", "unknown option"),
    (r"requires an argument", "requires a value"),
    (r"Missing argument '([^']*)'", r"missing argument <\1>"),
    (r"'(--?[\w-]+)'", r"\1"),
    (r"'([^']*)'", r'"\1"'),
    (r"^(Invalid value for )\"([A-Z-]+)\"", r"\1<\2>"),
)
"""Patterns in Typer's errors, and what is written instead."""

Phrases = tuple[tuple[str, Callable[..., Phrase]], ...]

_VALUE_ERRORS: Phrases = (
    (r"must be at least (.*)", lambda least: tr("must be at least {least}", least=least)),
    (r"must be less than or equal to (.*)", lambda most: tr("must be less than or equal to {most}", most=most)),
    (r"must be an integer", lambda: tr("must be an integer")),
    (
        r"must be a valid number, unable to parse string as a number",
        lambda: tr("must be a valid number, unable to parse string as a number"),
    ),
    (
        r'"(.*)" is not one of (.*)',
        lambda value, known: tr('"{value}" is not one of {known}', value=value, known=known),
    ),
)
"""Patterns of what Typer finds wrong with a value, as it is written here, and the phrase that can be translated."""

_USAGE_ERRORS: Phrases = (
    (r'unknown command "(.*)"', lambda name: tr('unknown command "{name}"', name=name)),
    (r"unknown option (\S+)", lambda name: tr("unknown option {name}", name=name)),
    (r"missing command", lambda: tr("missing command")),
    (r"missing option (\S+)", lambda name: tr("missing option {name}", name=name)),
    (r"missing argument (\S+)", lambda name: tr("missing argument {name}", name=name)),
    (r"option (\S+) requires a value", lambda name: tr("option {name} requires a value", name=name)),
    (r"option (\S+) does not take a value", lambda name: tr("option {name} does not take a value", name=name)),
    (r"unexpected argument: (.*)", lambda name: tr("unexpected argument: {name}", name=name)),
    (
        r"invalid value for (.*?): (.*)",
        lambda name, reason: tr("invalid value for {name}: {reason}", name=name, reason=_phrase(_VALUE_ERRORS, reason)),
    ),
)
"""Patterns of Typer's errors, as they are written here, and the phrase that can be translated."""


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    try:
        interrupts.exit_on_interrupt()
        sys.exit(_exit_status(_run(sys.argv[1:])))
    except KeyboardInterrupt:
        sys.exit(interrupts.STATUS)
    except (ImportError, MemoryError) as error:
        incomplete = tr("the installation is incomplete: {error}\nhint: install Skychimp again", error=error)
        message = _OUT_OF_MEMORY if _is_out_of_memory(error) else incomplete
        print(translated(tr("error:")), translated(message), file=sys.stderr)  # noqa: T201
        sys.exit(_exit_status(1))


def _exit_status(status: int) -> int:
    """Return the status to exit with. A mail server keeps an email only after 75, so `inbound read` has no other."""
    is_for_mail_server = ("inbound", "read") in pairwise(sys.argv)
    return TRY_AGAIN if status and is_for_mail_server else status


def _run(arguments: list[str]) -> int:
    gc.disable()  # it takes a tenth of the start-up time. Context.store enables it again.
    if "--no-color" in arguments:
        os.environ["NO_COLOR"] = "1"  # for Rich, Typer and the commands that the demo runs, too

    from skychimp.cli.output import Output, prepare_streams
    from skychimp.translation import VARIABLE, current_language, use_language, wanted_language

    prepare_streams()
    use_language(wanted_language(arguments, os.environ))
    if current_language() != "en":
        os.environ[VARIABLE] = current_language()  # for the commands that the demo runs, too
    if arguments == ["--version"]:
        return Output().finish(0, f"skychimp {__version__}\n")

    from skychimp.cli.context import Context

    context = Context()
    context.out.json = "--json" in arguments  # until the command has read its options
    try:
        return context.out.finish(_run_command(context, arguments))
    finally:
        interrupts.raise_on_interrupt()
        context.close()


def _run_command(context: Any, arguments: list[str]) -> int:
    """Run the command and return its exit status.

    Raises KeyboardInterrupt, and ImportError if Typer itself is missing.
    """
    from skychimp.cli.output import PIPE_CLOSED

    try:
        if "SUDO_UID" in os.environ:
            from skychimp.config import shared

            shared.restrict_environment(os.environ)
        from skychimp.cli.registry import command_line

        _check_completion()
        if os.environ.get(COMPLETE) == "complete_bash":
            from skychimp.cli.completion import join_words

            os.environ |= join_words(os.environ)
        status = command_line().main(arguments, prog_name="skychimp", standalone_mode=False, obj=context)
    except SystemExit as leaving:  # from Typer after it printed completions, or from Rich when the pipe is closed
        status = PIPE_CLOSED if isinstance(leaving.__context__, BrokenPipeError) else leaving.code
    except BrokenPipeError:
        status = PIPE_CLOSED
    except Exception as error:
        status = _report(context, arguments, error)
    return status if isinstance(status, int) else 0


def _check_completion() -> None:
    """Raise InvalidValue if the variable that asks for completions has a value that no shell's script gives it."""
    asked = os.environ.get(COMPLETE, "")
    if asked and not re.fullmatch(r"(complete|source)_(bash|zsh|fish|powershell|pwsh)", asked):
        from skychimp.errors import InvalidValue

        del os.environ[COMPLETE]
        raise InvalidValue(
            tr('invalid value "{value}" of {variable}', value=asked, variable=COMPLETE),
            tr("unset {variable}", variable=COMPLETE),
        )


def _report(context: Any, arguments: list[str], error: Exception) -> int:
    """Show an error and return its exit status."""
    if COMPLETE in os.environ:  # the shell would print an error into the line that is being typed
        return 0
    import typer

    from skychimp.errors import Denied, NotFound, NotLoggedIn

    if type(error).__name__ == "NoArgsIsHelpError":  # Typer has shown the help
        return 2
    if isinstance(error, typer.TyperException):
        context.out.json = _wants_json(arguments, getattr(error, "ctx", None))
    explained = _explain(error)
    if isinstance(explained, NotLoggedIn) and vars(context).get("token"):
        explained = _invalid_token(explained)
    context.out.error(explained)
    if isinstance(explained, NotFound | Denied):
        from skychimp.cli.refusals import record_refusal

        record_refusal(context, arguments, explained)
    return explained.exit_status


def _explain(error: Exception) -> "SkychimpError":
    """Return the error that the user sees for any exception."""
    import typer

    from skychimp.cli.output import is_output_broken, output_error
    from skychimp.errors import Interrupted, SkychimpError

    if isinstance(error, SkychimpError):
        return error
    if isinstance(error, typer.TyperException):
        return _usage_error(error)
    if isinstance(error, typer.Abort):
        return Interrupted(tr("interrupted"))
    if _is_out_of_memory(error):
        return SkychimpError(_OUT_OF_MEMORY)
    if isinstance(error, FileNotFoundError) and not error.filename and _is_folder_gone():
        return SkychimpError(tr("the current folder does not exist"), tr("change to another folder"))
    if isinstance(error, OSError) and error.strerror:
        if not error.filename and is_output_broken():
            return output_error(error)
        reason = tr("{strerror}", strerror=error.strerror)
        return SkychimpError(tr("{file}: {reason}", file=error.filename, reason=reason) if error.filename else reason)
    message = str(error).partition("\n")[0]
    return SkychimpError(
        tr(
            "unexpected {kind} at {location}: {message}",
            kind=type(error).__name__,
            location=_location(error),
            message=message,
        ),
        tr("this is a bug in Skychimp, please report it"),
    )


def _invalid_token(error: "SkychimpError") -> "SkychimpError":
    """Return the error for somebody who is not logged in, although there is a token."""
    from skychimp.errors import NotLoggedIn

    if os.environ.get("SKYCHIMP_TOKEN"):
        hint = tr('get a new one with "{command}"', command="skychimp login --email YOU@EXAMPLE.ORG --print-token")
        return NotLoggedIn(tr("the token in SKYCHIMP_TOKEN is not valid"), hint)
    return NotLoggedIn(tr("your session has ended"), error.hint)


def _is_folder_gone() -> bool:
    """Return whether the current folder was deleted."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether there is not enough memory, also for a library that is being loaded."""
    return isinstance(error, MemoryError) or (isinstance(error, ImportError) and "failed to map segment" in str(error))


def _location(error: Exception) -> str:
    """Return the file and line where an exception was raised."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return tr("an unknown place")
    return f"{os.path.basename(traceback.tb_frame.f_code.co_filename)}:{traceback.tb_lineno}"


def _usage_error(error: "typer.TyperException") -> "SkychimpError":
    """Return Typer's error in our wording, with a suggestion or the command's help as the hint."""
    from skychimp.errors import InvalidValue

    message, _, suggestion = " ".join(error.format_message().split()).partition(". Did you mean ")
    suggestion = suggestion.rstrip("?").replace("'", "")
    if similar := getattr(error, "possibilities", None):
        message, suggestion = error.message, similar[0]
    for pattern, replacement in _REWORDINGS:
        message = re.sub(pattern, replacement, message)
    message = message[:1].lower() + message[1:].rstrip(".")
    return InvalidValue(usage_phrase(message), _usage_hint(error, message, suggestion))


def usage_phrase(message: str) -> Phrase:
    """Return an error of usage, in our wording, as the phrase that can be translated."""
    return _phrase(_USAGE_ERRORS, message)


def _phrase(phrases: "Phrases", message: str) -> Phrase:
    """Return a text as the phrase that can be translated, or as it is if it is not in the table."""
    for pattern, make in phrases:
        if match := re.fullmatch(pattern, message):
            return make(*match.groups())
    return verbatim(message)


def _usage_hint(error: "typer.TyperException", message: str, suggestion: str) -> Phrase:
    from skychimp.cli.display.suggestions import suggest_choice, suggest_command
    from skychimp.shell import command, run_hint

    context, option = getattr(error, "ctx", None), getattr(error, "option_name", None)
    words = context.command_path.split()[1:] if context else []
    root = context.find_root().command if context and context.parent else None
    if root is not None and option in (options := _options(root)):
        value = [] if options[option] else [_metavar(root, option)]
        return tr("write it before the command: {command}", command=command(option, *value, *words))
    if unknown := re.fullmatch(r'unknown command "(.*)"', message):
        meant = suggest_command(context.command, unknown[1]) if context else NO_TEXT
    else:
        meant = tr("did you mean {words}?", words=suggestion) if suggestion else suggest_choice(message)
    return meant or run_hint(*words, "--help")


def _wants_json(arguments: list[str], context: Any) -> bool:
    """Return whether `--json` was given as an option, not as the value of another option."""
    commands = [context.command, context.find_root().command] if context else []
    with_value = {name for command in commands for name, is_flag in _options(command).items() if not is_flag}
    before_dashes = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return any(word == "--json" and previous not in with_value for previous, word in pairwise(["", *before_dashes]))


def _options(command: Any) -> dict[str, bool]:
    """Return the names of a command's visible options, and whether each is a flag."""
    visible = [param for param in command.params if not getattr(param, "hidden", False)]
    return {name: getattr(param, "is_flag", False) for param in visible for name in param.opts}


def _metavar(command: Any, option: str) -> str:
    """Return what the help calls the value of an option."""
    return next(str(param.metavar) for param in command.params if option in param.opts)
