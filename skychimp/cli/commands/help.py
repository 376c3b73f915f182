"""The command `skychimp help`: show a topic or a command's help, or write the man pages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from skychimp.cli.context import Context, Json, get_context
from skychimp.cli.output_file import Force, write_generated_files
from skychimp.errors import NotFound
from skychimp.translation import current_language, looked_up, tr

app = typer.Typer(rich_markup_mode="rich")

TOPICS = Path(__file__).parents[1] / "topics"
"""The folder of the English topics. The others are in a folder beside them that is named after their language."""

SCHEMAS = "schemas"


@dataclass(frozen=True)
class _Command:
    """A command with a JSON Schema."""

    command: str


@dataclass(frozen=True)
class Topic:
    """A help topic: a Markdown file whose first line is the title."""

    name: str
    title: str


def topics(language: str = "en") -> dict[str, Topic]:
    """Return the topics by name, with their titles in a language."""
    names = sorted(path.stem for path in TOPICS.glob("*.md"))
    return {name: Topic(name, _read_topic(name, language).partition("\n")[0].removeprefix("# ")) for name in names}


def _suggestions() -> list[tuple[str, str]]:
    """Return the topics and commands for shell completion, each with its description."""
    from skychimp.cli.registry import COMMANDS

    commands = ((name, looked_up(info.summary)) for name, info in COMMANDS.items())
    return [*((topic.name, topic.title) for topic in topics(current_language()).values()), *commands]


@app.command("help", epilog="skychimp help templates\nskychimp help --man ~/.local/share/man/man1")
def help_(
    ctx: typer.Context,
    topic: Annotated[
        list[str] | None,
        typer.Argument(metavar="TOPIC", help="Topic or command.", autocompletion=_suggestions, show_default=False),
    ] = None,
    man: Annotated[Path | None, typer.Option(help="Write the man pages to this folder.", metavar="DIR")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Show a help topic or the help of a command. Without a topic, list the topics.

    [bold]skychimp help schemas[/bold] lists the commands with a JSON Schema of what they print with --json, and
    [bold]skychimp help schemas clients list[/bold] shows one.
    """
    from skychimp.cli.registry import COMMANDS

    context = get_context(ctx, json)
    if man is not None:
        context.out.record({"pages": _write_man_pages(context, man, force=force), "folder": str(man)})
    elif not topic:
        is_data = context.out.json or not context.out.on_terminal
        listed = topics("en" if is_data else current_language())
        context.out.rows(listed.values(), {"name": tr("Help topic"), "title": tr("About")})
        context.out.next("help", "TOPIC")
    elif topic[0] == SCHEMAS:
        _show_schemas(context, " ".join(topic[1:]))
    elif topic[0] in topics() and len(topic) == 1:
        if context.out.json:
            context.out.record({"topic": topic[0], "text": _topic_text(topic[0], "en")})
        else:
            context.out.markdown(_topic_text(topic[0], current_language()))
    elif topic[0] in COMMANDS:
        ctx.find_root().command.main([*topic, "--help"], prog_name="skychimp", standalone_mode=False, obj=context)
    else:
        raise _not_found(" ".join(topic))


def _show_schemas(context: Context, command: str) -> None:
    """Show the schema of a command, or list the commands that have one. As JSON, show all schemas."""
    from skychimp.cli.commands import help_schemas
    from skychimp.shell import run_hint
    from skychimp.text import did_you_mean

    if command in help_schemas.names():
        context.out.json = True
        context.out.record(help_schemas.find(command))
    elif command:
        hint = did_you_mean(command, help_schemas.names()) or tr(
            "{hint} to list the commands", hint=run_hint("help", SCHEMAS)
        )
        raise NotFound(tr('no JSON Schema for "{command}"', command=command), hint)
    elif context.out.json:
        context.out.json_object((name, help_schemas.find(name)) for name in help_schemas.names())
    else:
        context.out.rows([_Command(name) for name in help_schemas.names()], {"command": "Command"})
        context.out.next("help", SCHEMAS, "COMMAND")


def _topic_text(topic: str, language: str) -> str:
    text = _read_topic(topic, language)
    if topic == "config":
        from skychimp.config import example

        text += f"\n```toml\n{example.example_config()}```"
    return text.rstrip("\n")


def _read_topic(name: str, language: str) -> str:
    """Return the text of a topic in a language, or in English if it is not translated."""
    path = TOPICS / language / f"{name}.md"
    return (path if path.exists() else TOPICS / f"{name}.md").read_text(encoding="utf-8")


def _not_found(topic: str) -> NotFound:
    from skychimp.text import did_you_mean

    suggestion = did_you_mean(topic, (name for name, _ in _suggestions()))
    return NotFound(
        tr('help topic "{topic}" not found', topic=topic), suggestion or tr('run "skychimp help" to list the topics')
    )


def _write_man_pages(context: Context, folder: Path, *, force: bool) -> int:
    """Write the man pages to a folder and return their number. Raises InvalidValue if that is not possible."""
    from skychimp.cli import man

    pages = man.man_pages(topics())
    write_generated_files(context, folder, pages, comment=r".\"", force=force, create=True)
    return len(pages)
