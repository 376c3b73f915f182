"""Read, write and publish blog posts, and build the blog as a static site (`skychimp blog`)."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from skychimp.cli.context import Context, Json, Limit, Offset, Search, Sort, Yes, get_context, list_options, read_text
from skychimp.cli.display.deletion import delete_all
from skychimp.cli.options.columns import Columns, choose_columns
from skychimp.errors import InvalidValue, SkychimpError
from skychimp.text import count_of
from skychimp.translation import Phrase, tr

if TYPE_CHECKING:
    from skychimp.services.blog.images import Image
    from skychimp.services.blog.posts import PostDetail

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

COLUMNS = {
    "id": tr("ID"),
    "slug": tr("Slug"),
    "title": tr("Title"),
    "published_at": tr("Published"),
    "views": tr("Views"),
}
NO_POSTS = 'no posts yet; editors can run "skychimp blog create --help"'

Slug = Annotated[str, typer.Argument(metavar="SLUG-or-ID", help="Slug or ID of a post.", show_default=False)]
Slugs = Annotated[list[str], typer.Argument(metavar="SLUG-or-ID...", help="Slugs or IDs of posts.", show_default=False)]
Body = Annotated[str | None, typer.Option(help="The content, in Markdown.", metavar="TEXT")]
BodyFile = Annotated[str | None, typer.Option(help="Read the content from this file, or - for stdin.", metavar="FILE")]
ImageFile = Annotated[Path | None, typer.Option(help="An image: a PNG, JPEG, WebP or GIF file.", metavar="FILE")]
Publish = Annotated[
    str | None,
    typer.Option(help="Publish it now, or at a time such as +10m or '2026-12-01 09:00'.", metavar="[WHEN]"),
]


class _PublishNow(TyperCommand):
    """A command whose option `--publish` means "now" without a value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with_values: list[str] = []
        for argument, following in zip(args, [*args[1:], "-"], strict=True):
            needs_value = argument == "--publish" and following.startswith("-")
            with_values += [argument, "now"] if needs_value else [argument]
        return super().parse_args(ctx, with_values)


@app.command(cls=_PublishNow, epilog="skychimp blog create --title 'Hello, world' --body-file hello.md --publish")
def create(
    ctx: typer.Context,
    title: Annotated[str, typer.Option(help="The title. The slug is made from it.")],
    body: Body = None,
    body_file: BodyFile = None,
    image: ImageFile = None,
    publish: Publish = None,
    json: Json = False,
) -> None:
    """Create a post: a draft, unless it is published. Without a body, your editor opens."""
    from skychimp.services.blog import posts

    context = get_context(ctx, json)
    posts.require_writer(context.actor)  # before somebody writes a text in vain
    at, picture = _publish_time(context, publish), _read_image(image)

    def save(content: str) -> "PostDetail":
        return posts.create(
            context.store,
            context.actor,
            title=title,
            content=content,
            image=picture,
            publish=publish is not None,
            at=at,
        )

    created = _save_content(context, body, body_file, "", save)
    _show(context, created)
    context.out.next("blog", "publish" if publish is None else "show", created.slug)


@app.command("list")
def list_(
    ctx: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Include drafts and scheduled posts. For editors.")] = False,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    columns: Columns = None,
    json: Json = False,
) -> None:
    """List published posts, the newest first."""
    from skychimp.services.blog import posts

    context = get_context(ctx, json)
    shown = choose_columns(context, columns, COLUMNS, posts.PostInfo)
    options = list_options(limit, offset, search, sort)
    rows = posts.list_posts(context.store, context.actor, options, unpublished=everything)
    context.out.rows(rows, shown, noun="post", empty=NO_POSTS, is_filtered=search is not None)


@app.command()
def show(ctx: typer.Context, post: Slug, json: Json = False) -> None:
    """Show a post. That counts as a view if it is published."""
    from skychimp.services.blog import posts

    context = get_context(ctx, json)
    viewed = posts.view(context.store, context.actor, post)
    if context.out.json:
        context.out.record(viewed)
    elif context.out.on_terminal:
        context.out.heading(viewed.title, _byline(viewed))
        _show_image(context, viewed)
        context.out.markdown(f"\n{viewed.content}")
    else:
        context.out.text(f"# {viewed.title}\n\n{viewed.content}")


@app.command(epilog="skychimp blog update hello-world --image hello.jpg")
def update(
    ctx: typer.Context,
    post: Slug,
    title: Annotated[str | None, typer.Option(help="A new title. The slug does not change.")] = None,
    body: Body = None,
    body_file: BodyFile = None,
    image: ImageFile = None,
    no_image: Annotated[bool, typer.Option("--no-image", help="Remove the image.")] = False,
    json: Json = False,
) -> None:
    """Change a post. Without options, its content opens in your editor."""
    from skychimp.services.blog import posts

    context = get_context(ctx, json)
    if image is not None and no_image:
        raise InvalidValue(tr("--image and --no-image cannot be combined"), tr("use one of them"))
    old = posts.find(context.store, context.actor, post)
    picture = _read_image(image)
    has_body = body is not None or body_file is not None
    opens_editor = not (has_body or no_image) and title is None and picture is None

    def save(content: str | None) -> "PostDetail":
        return posts.change(
            context.store,
            context.actor,
            post,
            title=title,
            content=content,
            image=picture,
            no_image=no_image,
            expected_revision=old.revision if opens_editor else None,
        )

    changes_content = has_body or opens_editor
    changed = _save_content(context, body, body_file, old.content, save) if changes_content else save(None)
    _show(context, changed)
    if changed.revision == old.revision:
        context.out.note(tr("nothing was changed"))


@app.command(epilog="skychimp blog publish hello-world '2026-12-01 09:00'")
def publish(
    ctx: typer.Context,
    post: Slug,
    when: Annotated[
        str | None,
        typer.Argument(metavar="[WHEN]", help="Publication time: now, +10m or '2026-12-01 09:00' (default: now)."),
    ] = None,
    json: Json = False,
) -> None:
    """Publish a post, now or at a given time."""
    from skychimp.services.blog import posts

    context = get_context(ctx, json)
    _show(context, posts.publish(context.store, context.actor, post, _publish_time(context, when)))


@app.command()
def unpublish(ctx: typer.Context, post: Slug, json: Json = False) -> None:
    """Turn a post into a draft again."""
    from skychimp.services.blog import posts

    context = get_context(ctx, json)
    _show(context, posts.unpublish(context.store, context.actor, post))


@app.command()
def delete(ctx: typer.Context, post: Slugs, yes: Yes = False, json: Json = False) -> None:
    """Delete posts and their images."""
    from skychimp.services.blog import posts

    context = get_context(ctx, json)
    delete_all(
        context,
        "post",
        [posts.find(context.store, context.actor, each) for each in post],
        describe=lambda target: f'post {target.id} ("{target.title}")',
        remove=lambda target: posts.remove(context.store, context.actor, str(target.id)),
        columns=COLUMNS,
        show=lambda target: _show(context, target),
        yes=yes,
    )


@app.command(epilog="skychimp blog build public --base-url https://blog.example.org")
def build(
    ctx: typer.Context,
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="An empty folder, a new one, or one that was built before.", show_default=False
        ),
    ],
    base_url: Annotated[
        str | None, typer.Option(help="The address of the site (default: blog.url).", metavar="URL")
    ] = None,
    json: Json = False,
) -> None:
    """Build the published posts as a static site with a feed. Only what has changed is written."""
    from skychimp.config import shared
    from skychimp.config.types import parse_site_url
    from skychimp.services.reporting.cache import open_cache
    from skychimp.site.build import build

    context = get_context(ctx, json)
    shared.require_operator(tr("build the site as this account"))
    if base_url is not None:
        context.overrides["blog.url"] = parse_site_url(base_url)
    built = build(
        context.store, context.actor, folder, context.settings, open_cache(context.settings, context.out.note)
    )
    if context.out.json:
        context.out.record(built)
        return
    counts = {"written": len(built.written), "removed": len(built.removed), "unchanged": built.unchanged}
    context.out.record({"folder": built.folder, "posts": built.posts} | counts)
    context.out.note(tr("open {absolute} in a browser", absolute=folder.absolute() / "index.html"))
    if context.settings.blog.url is None:
        context.out.note(tr("no sitemap and no absolute links: use --base-url, or set blog.url"))


def _show(context: Context, post: "PostDetail") -> None:
    context.out.record(post, None if context.out.json else [*COLUMNS, "image"])


def _byline(post: "PostDetail") -> Phrase:
    published = "draft" if post.published_at is None else post.published_at.astimezone().strftime("%Y-%m-%d %H:%M")
    return " · ".join(filter(None, (post.author, published, count_of(post.views, "view"))))


def _show_image(context: Context, post: "PostDetail") -> None:
    """Show a post's image if the terminal can. A post can be read without it."""
    from skychimp.services.blog import images

    if post.image is None or context.out.picture_size is None:
        return
    try:
        context.out.picture(images.read_pixels(images.read(context.store, post.image), *context.out.picture_size))
    except (OSError, SkychimpError) as error:
        context.out.warn(tr("cannot show the image: {error}", error=error))


def _publish_time(context: Context, when: str | None) -> datetime | None:
    """Return the time to publish at. None is the time at which the post is saved."""
    from skychimp.delivery.scheduling import time_input

    if when is None or when == "now":
        return None
    return time_input.parse_when(when, context.settings.mail.read_timezone(), datetime.now(UTC))


def _read_image(file: Path | None) -> "Image | None":
    from skychimp.config.named_files import open_input_file
    from skychimp.services.blog import images

    if file is None:
        return None
    try:
        with open_input_file(file) as opened:
            return images.reencode(opened.read(images.LARGEST_FILE + 1))
    except OSError as error:
        raise InvalidValue(
            tr("cannot read {file}: {strerror}", file=file, strerror=error.strerror),
            tr("use the path of a readable image file"),
        ) from None


def _save_content(
    context: Context, body: str | None, body_file: str | None, old: str, save: Callable[[str], "PostDetail"]
) -> "PostDetail":
    """Save the content that the options give, or that the user writes in an editor."""
    from skychimp.cli.editor import edit_and_save

    if body is not None and body_file is not None:
        raise InvalidValue(tr("--body and --body-file cannot be combined"), tr("use one of them"))
    if body is not None:
        return save(body)
    if body_file is not None:
        return save(read_text(body_file))
    return edit_and_save(
        context, old, save, suffix=".md", missing="the post has no content", hint=tr("use --body or --body-file")
    )
