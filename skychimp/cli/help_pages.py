"""Show the help of commands and groups in the usual notation, examples first and the options of a group last."""

import inspect
import re
from collections.abc import Iterable
from typing import Any

from typer.core import TyperArgument, TyperGroup

from skychimp.translation import current_language, looked_up

SUBCOMMAND = "<COMMAND> [ARGS]..."
"""How a group's usage names its commands."""

USAGE, OPTIONS, COMMANDS = "Usage:", "Options", "Commands"
DEFAULT, REQUIRED = "[default: {}]", "[required]"
RICH_TEXTS = ("ARGUMENTS_PANEL_TITLE", "OPTIONS_PANEL_TITLE", "DEFAULT_STRING", "REQUIRED_LONG_STRING")
"""Typer's own texts, and the names of those in its module rich_utils."""


def prepare_command(command: Any) -> None:
    """Give the parameters of a command, and of its subcommands, names that a user understands."""
    import typer

    for each in (command, *subcommands(command).values()):
        context = typer.Context(each)
        for param in each.params:
            if isinstance(param, TyperArgument):
                _name_argument(param, context)
            elif param.metavar is None and param.display_type(context) in ("<str>", "<list[str]>"):
                param.metavar = param.name.upper().replace("_", "-")
        if isinstance(each, TyperGroup):
            _prepare_group(each)


def subcommands(command: Any) -> dict[str, Any]:
    """Return the commands of a group by their names, and those of the groups in it as `variants set`."""
    found = {}
    for name, each in getattr(command, "commands", {}).items():
        found[name] = each
        found |= {f"{name} {subname}": inner for subname, inner in subcommands(each).items()}
    return found


def leaves(command: Any) -> dict[str, Any]:
    """Return the commands of a group that are not groups, by their names, or a single command by the empty name."""
    found = {name: each for name, each in subcommands(command).items() if not hasattr(each, "commands")}
    return found or {"": command}


def translate_help(command: Any) -> None:
    """Show the help of a command, or of a group and its commands, in the reader's language."""
    for each in (command, *subcommands(command).values()):
        each.help = looked_up(inspect.cleandoc(each.help or ""))
        for part in (each, *each.params):
            part.rich_help_panel = looked_up(getattr(part, "rich_help_panel", None) or "") or None
        for param in each.params:
            param.help = looked_up(getattr(param, "help", None) or "") or None
        _translate_typer(each)


def _translate_typer(command: Any) -> None:
    """Translate Typer's own texts in the help of a command, when it is shown: their module takes long to import."""
    usage_in_english, show_help = command.get_usage, command.format_help

    def show_translated_help(ctx: Any, formatter: Any) -> None:
        if not isinstance(command, TyperGroup):
            from typer import rich_utils

            for name in RICH_TEXTS:
                setattr(rich_utils, name, looked_up(getattr(rich_utils, name)))
        show_help(ctx, formatter)

    command.get_usage = lambda ctx: usage_in_english(ctx).replace(USAGE, looked_up(USAGE), 1)
    command.format_help = show_translated_help


def prepare_help(command: Any, ctx: Any) -> None:
    """Move the examples of a command before its options, and hide the type of options that take no value."""
    if command.epilog and not isinstance(command, TyperGroup):
        first, _, rest = inspect.cleandoc(command.help or "").partition("\n\n")
        examples = _examples(command).replace("[", r"\[")
        command.help = "\n\n".join(filter(None, (first, f"[not dim]{examples}[/]", rest)))
        command.epilog = None
    help_option = command.get_help_option(ctx)
    help_option.help = looked_up(help_option.help)
    for param in (*command.params, help_option):
        if getattr(param, "is_flag", False):
            param.metavar = ""


def show_group_help(group: Any, ctx: Any) -> None:
    """Print the help of a group: usage, summary, examples, commands by panel, options.

    Typer prints the options before the commands, where they push the commands off the screen.
    """
    from rich.padding import Padding
    from rich.text import Text

    from skychimp.cli.output import new_console

    console = new_console(stderr=False)
    texts = (Text(group.get_usage(ctx), "bold"), Text(group.help or ""), Text(_examples(group)))
    for text in filter(None, texts):
        console.print(Padding(text, (1, 1, 0, 1)))
    console.print()
    panels: dict[str, list[tuple[str, str]]] = {}
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        panels.setdefault(command.rich_help_panel or looked_up(COMMANDS), []).append((name, _summary(command)))
    options = [help_record(param, ctx) for param in group.get_params(ctx)]
    for title, rows in (*panels.items(), (looked_up(OPTIONS), filter(None, options))):
        console.print(_panel(title, rows, max(map(len, group.commands)) if title in panels else None))


def help_record(param: Any, context: Any) -> tuple[str, str] | None:
    """Return the names of a parameter and its help, None if it is hidden.

    Typer writes the default into the help, and whether the parameter is required.
    """
    record = param.get_help_record(context)
    if record is None or current_language() == "en":
        return record  # type: ignore[no-any-return]
    names, text = record
    text = re.sub(r"\[default: (.*)\]$", lambda found: looked_up(DEFAULT).format(found[1]), looked_up(text))
    return names, text.replace(REQUIRED, looked_up(REQUIRED))


def _prepare_group(group: TyperGroup) -> None:
    group.subcommand_metavar = SUBCOMMAND
    show_help: Any = lambda ctx, formatter: show_group_help(group, ctx)  # noqa: E731
    group.format_help = show_help  # type: ignore[method-assign]


def _name_argument(argument: TyperArgument, context: Any) -> None:
    """Show an argument as `<ID>`, `[<ID>]` if it is optional, and with `...` if it can be repeated.

    Its type is shown only if it is a choice.
    """
    name = (argument.metavar or argument.name.upper()).strip("[].")
    usage = f"<{name}>" if argument.required else f"[<{name}>]"
    argument.metavar = name
    if "|" not in argument.display_type(context):
        argument.display_type_rich = lambda ctx: None  # type: ignore[method-assign]
    pieces: Any = lambda ctx: [usage + ("..." if argument.nargs != 1 else "")]  # noqa: E731
    argument.get_usage_pieces = pieces  # type: ignore[method-assign]


def _panel(title: str, rows: Iterable[tuple[str, str]], width: int | None) -> Any:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid("", "", padding=(0, 2), expand=True)
    table.columns[0].no_wrap, table.columns[0].width = True, width
    table.columns[1].ratio = 1
    for name, text in rows:
        table.add_row(Text(name, "bold cyan"), Text(text))
    return Panel(table, title=title, title_align="left", border_style="dim")


def _examples(command: Any) -> str:
    return "\n".join(f"$ {line}" for line in (command.epilog or "").splitlines())


def _summary(command: Any) -> str:
    """Return the first sentence of a command's help."""
    paragraph = " ".join(inspect.cleandoc(command.help or "").partition("\n\n")[0].split())
    return re.split(r"(?<=[.])\s", paragraph, maxsplit=1)[0]
