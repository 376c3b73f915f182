"""Show the numbers of mailings and clients, and some posts (`skychimp stats`)."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Context, Json, get_context
from skychimp.cli.display.values import terminal_text
from skychimp.cli.reporting import show_range
from skychimp.shell import command
from skychimp.text import count_of
from skychimp.translation import Phrase, joined, tr, translated

if TYPE_CHECKING:
    from rich.console import RenderableType

    from skychimp.services.blog.posts import PostInfo
    from skychimp.services.reporting.home import Concern, Home, OwnFigures

app = typer.Typer(rich_markup_mode="rich")

FIGURES = {"mailings": tr("mailings"), "active_mailings": tr("active"), "unique_clients": tr("unique clients")}

Row = tuple[str, str, str]
"""A thing, what is known about it, and the command that shows more."""


@app.command(epilog="skychimp stats --json\nskychimp stats --range 30d")
def stats(
    ctx: typer.Context,
    fresh: Annotated[bool, typer.Option("--fresh", help="Count again, without the cache.")] = False,
    days: Annotated[
        str | None,
        typer.Option(
            "--range", help="Show what was sent by day: 7d, 2026-01 or 2026-01-01..2026-01-31.", metavar="DAYS"
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show the numbers of mailings and clients, and random posts.

    When you are logged in, it also shows your own numbers and what needs attention.
    """
    from skychimp.services.reporting import home
    from skychimp.services.reporting.cache import open_cache, refresh

    context = get_context(ctx, json)
    if days is not None:
        show_range(context, days)
        return
    cached = refresh if fresh else open_cache(context.settings, context.out.note)
    page = home.home(context.store, context.actor, cached)
    if context.out.json:
        context.out.record(asdict(page))
    elif context.out.on_terminal:
        context.out.draw(*_draw(page))
    else:
        _write_lines(context, page)


def _write_lines(context: Context, page: "Home") -> None:
    """Write one figure per line, then one post and one concern per line. Posts and concerns start with their kind."""
    own = {f"your_{name}": value for name, value in vars(page.yours).items() if name != "rates"} if page.yours else {}
    own |= {f"your_{rate.kind.removesuffix('s')}_rate": rate.rate for rate in page.yours.rates} if page.yours else {}
    context.out.record({name: getattr(page, name) for name in (*FIGURES, "as_of")} | own)
    posts = [SimpleNamespace(kind="post", **vars(post)) for post in page.posts]
    context.out.lines(posts, dict.fromkeys(("kind", "id", "slug", "title", "published_at", "views"), ""))
    concerns = [SimpleNamespace(kind="attention", **vars(concern)) for concern in page.attention]
    context.out.lines(concerns, dict.fromkeys(("kind", "about", "words", "command"), ""))


def _draw(page: "Home") -> Iterator["RenderableType"]:
    """Yield the parts of the page, from the top."""
    from rich.text import Text

    yield _draw_figures(page)
    yield _draw_section(tr("Posts"), _posts(page.posts))
    if page.yours is not None:
        yield _draw_section(tr("Your mailings and clients"), _own_figures(page.yours))
    if page.attention:
        yield _draw_section(tr("Needs attention"), _attention(page.attention), "yellow")
    yield Text(f"\n {translated(tr('as of {at}', at=_local(page.as_of)))}", style="dim")


def _draw_figures(page: "Home") -> "RenderableType":
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(expand=True)
    cells = []
    for name, label in FIGURES.items():
        table.add_column(ratio=1)
        number = Text(f"{getattr(page, name):,}\n", style="bold cyan", justify="center")
        cells.append(Panel(number.append(translated(label), style="not bold default"), border_style="cyan"))
    table.add_row(*cells)
    return table


def _posts(posts: list["PostInfo"]) -> Iterator[Row]:
    if not posts:
        yield "", tr("no posts yet"), ""
    for post in posts:
        assert post.published_at is not None
        yield (
            post.title,
            joined(", ", (_local(post.published_at), count_of(post.views, "view"))),
            command("blog", "show", post.slug),
        )


def _own_figures(own: "OwnFigures") -> Iterator[Row]:
    next_due = tr("next {at}", at=_local(own.next_at)) if own.next_at else tr("nothing scheduled")
    mailings = count_of(own.mailings, "mailing")
    active = tr("{mailings}, {active:,} active", mailings=mailings, active=own.active_mailings)
    yield active, next_due, command("mailings", "list")
    selected = tr("{number:,} selected by mailings", number=own.unique_clients)
    yield count_of(own.clients, "client"), selected, command("clients", "list")
    for rate in own.rates:
        if rate.of:
            is_bounces = rate.kind == "bounces"
            name = (
                tr("bounces in 30 days: {rate}", rate=rate.in_words)
                if is_bounces
                else tr("complaints in 30 days: {rate}", rate=rate.in_words)
            )
            yield name, rate.advice, ""


def _attention(concerns: list["Concern"]) -> Iterator[Row]:
    for concern in concerns:
        yield concern.words, "", concern.command


def _draw_section(title: Phrase, rows: Iterable[Row], style: str = "bold") -> "RenderableType":
    """Return a section of the page."""
    from rich.padding import Padding
    from rich.text import Text

    lines = [Text(translated(title), style="bold cyan")]
    for name, about, next_command in rows:
        gap = "  " if name and about else ""
        lines.append(Text.assemble((terminal_text(name), style), gap, (translated(about), "dim")))
        if next_command:
            lines.append(Text(f"  {next_command}"))
    return Padding(Text("\n").join(lines), (1, 0, 0, 1))


def _local(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M")
