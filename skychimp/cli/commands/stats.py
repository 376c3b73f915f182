"""`skychimp stats`: the home page."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Context, Json, get_context
from skychimp.cli.output import escape
from skychimp.cli.range_report import show as show_days

if TYPE_CHECKING:
    from rich.console import RenderableType

    from skychimp.services.blog.posts import PostInfo
    from skychimp.services.reporting.home import Concern, Home, Yours

app = typer.Typer(rich_markup_mode="rich")

FIGURES = {"mailings": "mailings", "active_mailings": "active", "unique_clients": "unique clients"}


@app.command(epilog="skychimp stats --json\nskychimp stats --range 30d")
def stats(
    ctx: typer.Context,
    fresh: Annotated[bool, typer.Option("--fresh", help="Count anew, whatever the cache holds.")] = False,
    days: Annotated[
        str | None,
        typer.Option("--range", help="What was sent by day: 7d, 2026-01, 2026-01-01..2026-01-31.", metavar="DAYS"),
    ] = None,
    json: Json = False,
) -> None:
    """Show the home page: mailings, clients, and posts to read; logged in, also what is yours and what needs you."""
    from skychimp.services.reporting import home
    from skychimp.services.reporting.cache import Cache, refresh

    context = get_context(ctx, json)
    if days is not None:
        show_days(context, days)
        return
    cached = refresh if fresh else Cache(context.settings, context.out.note).cached
    found = home.home(context.store, context.actor, cached)
    if context.out.json:
        context.out.one(asdict(found))
    elif context.out.on_terminal:
        context.out.draw(*_page(found))
    else:
        _print_lines(context, found)


def _print_lines(context: Context, found: "Home") -> None:
    """A figure a line, then a post and a concern a line, each with its kind in front."""
    yours = {f"your_{name}": value for name, value in vars(found.yours).items()} if found.yours else {}
    context.out.one({name: getattr(found, name) for name in (*FIGURES, "as_of")} | yours)
    posts = [SimpleNamespace(kind="post", **vars(post)) for post in found.posts]
    context.out.lines(posts, dict.fromkeys(("kind", "id", "slug", "title", "published_at", "views"), ""))
    concerns = [SimpleNamespace(kind="attention", **vars(concern)) for concern in found.attention]
    context.out.lines(concerns, dict.fromkeys(("kind", "about", "words", "command"), ""))


def _page(found: "Home") -> Iterator["RenderableType"]:
    """The parts of the page, from the top."""
    from rich.text import Text

    yield _figures(found)
    yield _part("To read", _posts(found.posts))
    if found.yours is not None:
        yield _part("Yours", _yours(found.yours))
    if found.attention:
        yield _part("Needs you", _attention(found.attention), "yellow")
    yield Text(f"\n counted {_local(found.as_of)}", style="dim")


def _figures(found: "Home") -> "RenderableType":
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    row = Table.grid(expand=True)
    cells = []
    for name, words in FIGURES.items():
        row.add_column(ratio=1)
        number = Text(f"{getattr(found, name):,}\n", style="bold cyan", justify="center")
        cells.append(Panel(number.append(words, style="not bold default"), border_style="cyan"))
    row.add_row(*cells)
    return row


def _posts(posts: list["PostInfo"]) -> Iterator[tuple[str, str, str]]:
    if not posts:
        yield "", "no posts yet", ""
    for post in posts:
        assert post.published_at is not None
        yield post.title, f"{_local(post.published_at)}, {_number(post.views, 'view')}", f"blog show {post.slug}"


def _yours(yours: "Yours") -> Iterator[tuple[str, str, str]]:
    coming = f"next {_local(yours.next_at)}" if yours.next_at else "nothing to come"
    yield f"{_number(yours.mailings, 'mailing')}, {yours.active_mailings:,} active", coming, "mailings list"
    reached = f"{yours.unique_clients:,} in the audiences of mailings"
    yield _number(yours.clients, "client"), reached, "clients list"


def _attention(concerns: list["Concern"]) -> Iterator[tuple[str, str, str]]:
    for concern in concerns:
        yield concern.words, "", concern.command.removeprefix("skychimp ")


def _part(title: str, rows: Iterable[tuple[str, str, str]], style: str = "bold") -> "RenderableType":
    """A part of the page: for each row what it is, what is said of it, and the command that goes on from there."""
    from rich.padding import Padding
    from rich.text import Text

    lines = [Text(title, style="bold cyan")]
    for what, about, command in rows:
        lines.append(Text.assemble((escape(what), style), "  " if what and about else "", (about, "dim")))
        if command:
            lines.append(Text(f"  skychimp {command}"))
    return Padding(Text("\n").join(lines), (1, 0, 0, 1))


def _number(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _local(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M")
