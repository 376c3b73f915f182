"""`skychimp blog`: posts, for anyone to read and for editors to write."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from skychimp.cli.context import Context, Json, Limit, Offset, Search, Sort, Yes, get_context, page, read_text
from skychimp.errors import InvalidValue, SkychimpError

if TYPE_CHECKING:
    from skychimp.services.blog.images import Image
    from skychimp.services.blog.posts import PostDetail

app = typer.Typer(no_args_is_help=True, help="Posts to read, and to write.", rich_markup_mode="rich")

COLUMNS = {"id": "ID", "slug": "Slug", "title": "Title", "published_at": "Published", "views": "Views"}

Slug = Annotated[str, typer.Argument(metavar="SLUG-or-ID", help="A post's slug or id.", show_default=False)]
Body = Annotated[str | None, typer.Option(help="What it says, in Markdown.", metavar="TEXT")]
BodyFile = Annotated[str | None, typer.Option(help="What it says, from a file, or - for stdin.", metavar="FILE")]
ImageFile = Annotated[Path | None, typer.Option(help="A PNG, JPEG, WebP or GIF file.", metavar="FILE")]
Publish = Annotated[
    str | None,
    typer.Option(help="Publish it: now, or when this says; as now, +10m, '2026-12-01 09:00'.", metavar="[WHEN]"),
]


class _Publishes(TyperCommand):
    """Takes `--publish` without a value for now."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words: list[str] = []
        for word, after in zip(args, [*args[1:], "-"], strict=True):
            words += [word, "now"] if word == "--publish" and after.startswith("-") else [word]
        return super().parse_args(ctx, words)


@app.command(cls=_Publishes, epilog="skychimp blog create --title 'Hello, world' --body-file hello.md --publish")
def create(
    ctx: typer.Context,
    title: Annotated[str, typer.Option(help="The title; its slug is made of it.")],
    body: Body = None,
    body_file: BodyFile = None,
    image: ImageFile = None,
    publish: Publish = None,
    json: Json = False,
) -> None:
    """Write a post; without a text, in your editor. It is a draft until it is published."""
    from skychimp.services.blog import posts

    context = get_context(ctx, json)
    posts.require_writer(context.actor)  # before anybody writes a text in vain
    at, picture = _time(context, publish), _image(image)
    with _text(context, body, body_file) as text:
        made = posts.create(
            context.store,
            context.actor,
            title=title,
            content=text,
            image=picture,
            publish=publish is not None,
            at=at,
        )
    _show(context, made)
    context.out.note(f"next: skychimp blog {'publish' if publish is None else 'show'} {made.slug}")


@app.command("list")
def list_(
    ctx: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Drafts and posts to come, too; for who writes.")] = False,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    json: Json = False,
) -> None:
    """List the published posts, the newest first."""
    from skychimp.services.blog import posts

    context = get_context(ctx, json)
    found = posts.list_posts(context.store, context.actor, page(limit, offset, search, sort), unpublished=everything)
    context.out.rows(found, COLUMNS, empty="no posts yet; editors write them: skychimp blog create --help")


@app.command()
def show(ctx: typer.Context, post: Slug, json: Json = False) -> None:
    """Read a post."""
    from skychimp.services.blog import posts

    context = get_context(ctx, json)
    seen = posts.view(context.store, context.actor, post)
    if context.out.json:
        context.out.one(seen)
    elif context.out.on_terminal:
        context.out.heading(seen.title, _byline(seen))
        _draw(context, seen)
        context.out.markdown(f"\n{seen.content}")
    else:
        context.out.text(f"# {seen.title}\n\n{seen.content}")


@app.command(epilog="skychimp blog update hello-world --image hello.jpg")
def update(
    ctx: typer.Context,
    post: Slug,
    title: Annotated[str | None, typer.Option(help="Another title; the slug stays.")] = None,
    body: Body = None,
    body_file: BodyFile = None,
    image: ImageFile = None,
    no_image: Annotated[bool, typer.Option("--no-image", help="Take its image away.")] = False,
    json: Json = False,
) -> None:
    """Change a post; where no option says what, its text, in your editor."""
    from skychimp.services.blog import posts

    context = get_context(ctx, json)
    if image is not None and no_image:
        raise InvalidValue("--image and --no-image can't go together")
    old = posts.find(context.store, context.actor, post)
    says = body is not None or body_file is not None
    edits = not (says or no_image) and title is None and image is None
    with _text(context, body, body_file, old.content) if says or edits else contextlib.nullcontext() as text:
        changed = posts.change(
            context.store,
            context.actor,
            post,
            title=title,
            content=text,
            image=_image(image),
            no_image=no_image,
            of_revision=old.revision if edits else None,
        )
    _show(context, changed)
    if changed.revision == old.revision:
        context.out.note("nothing was changed")


@app.command(epilog="skychimp blog publish hello-world '2026-12-01 09:00'")
def publish(
    ctx: typer.Context,
    post: Slug,
    when: Annotated[str | None, typer.Argument(metavar="[WHEN]", help="now, +10m, '2026-12-01 09:00'.")] = None,
    json: Json = False,
) -> None:
    """Publish a post, now, or by itself at a time to come."""
    from skychimp.services.blog import posts

    context = get_context(ctx, json)
    _show(context, posts.publish(context.store, context.actor, post, _time(context, when)))


@app.command()
def unpublish(ctx: typer.Context, post: Slug, json: Json = False) -> None:
    """Make a post a draft again."""
    from skychimp.services.blog import posts

    context = get_context(ctx, json)
    _show(context, posts.unpublish(context.store, context.actor, post))


@app.command()
def delete(ctx: typer.Context, post: Slug, yes: Yes = False, json: Json = False) -> None:
    """Delete a post, and its image."""
    from skychimp.services.blog import posts

    context = get_context(ctx, json)
    found = posts.find(context.store, context.actor, post)
    context.confirm(f"delete post {found.id}, {found.title!r}?", yes=yes)
    _show(context, posts.remove(context.store, context.actor, str(found.id)))


@app.command(epilog="skychimp blog build public --base-url https://blog.example.org")
def build(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of its own.", show_default=False)],
    base_url: Annotated[
        str | None, typer.Option(help="Where the site will be; blog.url otherwise.", metavar="URL")
    ] = None,
    json: Json = False,
) -> None:
    """Write the published posts as a static site, with a feed; only what has changed is written."""
    from skychimp.config.types import parse_url
    from skychimp.services.reporting.cache import Cache
    from skychimp.site.build import build

    context = get_context(ctx, json)
    if base_url is not None:
        context.said["blog.url"] = parse_url(base_url)
    built = build(
        context.store, context.actor, folder, context.settings, Cache(context.settings, context.out.note).cached
    )
    if context.out.json:
        context.out.one(built)
        return
    counts = {"written": len(built.written), "removed": len(built.removed), "unchanged": built.unchanged}
    context.out.one({"folder": built.folder, "posts": built.posts} | counts)
    context.out.note(f"look at it: {folder.absolute() / 'index.html'}")
    if context.settings.blog.url is None:
        context.out.note("for a map of the site, and links that lead to it from elsewhere: --base-url URL, or blog.url")


def _show(context: Context, post: "PostDetail") -> None:
    context.out.one(post, None if context.out.json else [*COLUMNS, "image"])


def _byline(post: "PostDetail") -> str:
    when = "a draft" if post.published_at is None else post.published_at.astimezone().strftime("%Y-%m-%d %H:%M")
    views = f"{post.views} view{'' if post.views == 1 else 's'}"
    return " · ".join(filter(None, (post.author, when, views)))


def _draw(context: Context, post: "PostDetail") -> None:
    """Show a post's image where it can be; a reader does not need it."""
    from skychimp.services.blog import images, posts

    if post.image is None or context.out.canvas is None:
        return
    try:
        context.out.picture(images.pixels(posts.image_path(context.store, post.image), *context.out.canvas))
    except (OSError, SkychimpError) as error:
        context.out.warn(f"its image can't be shown: {error}")


def _time(context: Context, when: str | None) -> datetime | None:
    """The time that is said; None for now, which is when it is written."""
    from skychimp.delivery.scheduling import time_input

    return (
        None
        if when in (None, "now")
        else time_input.parse_when(when, context.settings.mail.timezone, datetime.now(UTC))
    )


def _image(file: Path | None) -> "Image | None":
    from skychimp.services.blog import images

    if file is None:
        return None
    try:
        with file.open("rb") as opened:
            return images.made_anew(opened.read(images.LARGEST_FILE + 1))
    except OSError as error:
        raise InvalidValue(f"{file} can't be read: {error.strerror}", "name a readable image file") from None


@contextlib.contextmanager
def _text(context: Context, body: str | None, body_file: str | None, old: str = "") -> Iterator[str]:
    """The text that the options say, or that the person at the terminal writes."""
    if body is not None and body_file is not None:
        raise InvalidValue("--body and --body-file can't go together")
    if body_file is not None:
        yield read_text(body_file)
    elif body is not None:
        yield body
    elif context.may_ask():
        with _edited(context, old) as text:
            yield text
    else:
        raise InvalidValue("what does it say?", "give --body TEXT or --body-file FILE")


@contextlib.contextmanager
def _edited(context: Context, old: str) -> Iterator[str]:
    """A text as it comes out of the person's editor; what was written stays in its file unless all goes well."""
    import os
    import tempfile

    from skychimp.cli import editor

    file, name = tempfile.mkstemp(suffix=".md", prefix="skychimp-")
    with os.fdopen(file, "w", encoding="utf-8") as opened:
        opened.write(old)
    try:
        editor.run(Path(name))
        yield read_text(name)
    except BaseException:
        if Path(name).read_bytes() != old.encode():
            context.out.warn(f"what you wrote is kept in {name}")
        else:
            os.unlink(name)
        raise
    os.unlink(name)
