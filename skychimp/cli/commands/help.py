"""`skychimp help`: a topic, a command's own help, or the manual's pages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from skychimp.cli.context import Json, get_context
from skychimp.errors import InvalidValue, NotFound

app = typer.Typer(rich_markup_mode="rich")

TOPICS = Path(__file__).parents[1] / "topics"


@dataclass(frozen=True)
class Topic:
    name: str
    title: str


def topics() -> dict[str, Topic]:
    """The topics there are, by name."""
    first_lines = {path.stem: path.read_text(encoding="utf-8").partition("\n")[0] for path in TOPICS.glob("*.md")}
    return {name: Topic(name, first_lines[name].removeprefix("# ")) for name in sorted(first_lines)}


def _offered() -> list[tuple[str, str]]:
    from skychimp.cli.registry import COMMANDS

    commands = ((name, line) for name, (_, line) in COMMANDS.items())
    return [*((topic.name, topic.title) for topic in topics().values()), *commands]


@app.command("help", epilog="skychimp help templates\nskychimp help --man ~/.local/share/man/man1")
def help_(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TOPIC]", help="A topic or a command.", autocompletion=_offered, show_default=False),
    ] = None,
    man: Annotated[Path | None, typer.Option(help="Write the manual's pages there.", metavar="DIR")] = None,
    json: Json = False,
) -> None:
    """Read about a topic or a command; without one, the topics there are."""
    from skychimp.cli.registry import COMMANDS

    context = get_context(ctx, json)
    if man is not None:
        context.out.one({"pages": _write_pages(man), "folder": str(man)})
    elif not words:
        context.out.rows(topics().values(), {"name": "Topic", "title": "About"})
        context.out.next("help TOPIC, or skychimp COMMAND --help")
    elif words[0] in topics() and len(words) == 1:
        text = _text(words[0])
        if context.out.json:
            context.out.one({"topic": words[0], "text": text})
        else:
            context.out.markdown(text)
    elif words[0] in COMMANDS:
        ctx.find_root().command.main([*words, "--help"], prog_name="skychimp", standalone_mode=False, obj=context)
    else:
        raise NotFound(f"there is no topic {words[0]!r}", "the topics are " + ", ".join(topics()))


def _text(topic: str) -> str:
    text = (TOPICS / f"{topic}.md").read_text(encoding="utf-8")
    if topic == "config":
        from skychimp.config import example

        text += f"\n```toml\n{example.example_config()}```"
    return text.rstrip("\n")


def _write_pages(folder: Path) -> int:
    from skychimp.cli import man

    pages = man.pages(topics())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, page in pages.items():
            (folder / name).write_text(page, encoding="utf-8")
    except OSError as error:
        raise InvalidValue(f"{folder} can't be written to: {error.strerror}", "name another folder") from None
    return len(pages)
