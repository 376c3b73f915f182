"""From the global options to settings, store and actor; each is looked up when a command first asks for it."""

import gc
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.output import Output
from skychimp.errors import InvalidValue, SkychimpError

if TYPE_CHECKING:
    from skychimp.config.settings import Settings
    from skychimp.permissions import Actor
    from skychimp.services.listing import ListOptions
    from skychimp.store.database import Store

Json = Annotated[bool, typer.Option("--json", help="One JSON value on stdout.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.", show_default=False)]
Operator = Annotated[
    bool, typer.Option("--operator", help="As whoever runs the service, without a login.", show_default=False)
]
Limit = Annotated[int | None, typer.Option(min=0, help="At most so many rows.", metavar="N")]
Offset = Annotated[int, typer.Option(min=0, help="Leave out the first so many rows.", metavar="N")]
Search = Annotated[str | None, typer.Option(help="Only rows that hold this text.", metavar="TEXT")]
Sort = Annotated[
    str | None, typer.Option(help="The column to sort by; -COLUMN for the other way round.", metavar="COLUMN")
]


@dataclass(frozen=True)
class Options:
    """The global options that say what a command works with; how it speaks is in Output."""

    config: Path | None = None
    store: str | None = None
    verbose: bool = False
    no_input: bool = False


@dataclass
class Context:
    """What a command needs, from its global options on."""

    options: Options = Options()
    out: Output = field(default_factory=Output)
    said: dict[str, str] = field(default_factory=dict)
    """Settings that the command's own options say."""

    @cached_property
    def settings(self) -> "Settings":
        from skychimp.config import sources

        settings = sources.load(self.flags, config_file=self.options.config)
        if self.options.verbose:
            self.out.note(f"config: {settings.config_file or 'none'}")
            self.out.note(f"store:  {settings.store_name}")
        return settings

    @property
    def flags(self) -> Mapping[str, str]:
        """What the command line says of settings."""
        store = {"store.url": self.options.store} if self.options.store is not None else {}
        return store | self.said

    def reload(self) -> "Settings":
        """Read the settings again. Raises ConfigError, and then keeps those there were."""
        from skychimp.config import sources

        self.settings = sources.load(self.flags, config_file=self.options.config)
        return self.settings

    @cached_property
    def store(self) -> "Store":
        from skychimp.store.schema import open_store

        store = open_store(self.settings.store_url)
        gc.freeze()  # all that was imported stays; what is made from here on is collected again
        gc.enable()
        return store

    def close(self) -> None:
        """Let go of the store, if it was asked for."""
        if "store" in vars(self):
            self.store.close()

    @cached_property
    def token(self) -> str | None:
        """The session's token, of the environment or of this account for this store. Raises NotLoggedIn."""
        from skychimp.cli import saved_session

        return os.environ.get("SKYCHIMP_TOKEN") or saved_session.read(self.settings.store_url)

    @cached_property
    def actor(self) -> "Actor":
        from skychimp.services.accounts import sessions

        return sessions.actor(self.store, self.token)

    def caretaker(self, operator: bool) -> "Actor":
        """Who looks after the store: whoever runs the service, where that is said, or who is logged in.

        Raises NotLoggedIn.
        """
        from skychimp.errors import NotLoggedIn
        from skychimp.permissions import OPERATOR

        if not operator and self.actor.role is None:
            raise NotLoggedIn(
                "you are not logged in", "log in as an administrator; or, if you run the service: --operator"
            )
        return OPERATOR if operator else self.actor

    def may_ask(self) -> bool:
        """Whether there is a person at a terminal who may be asked."""
        return sys.stdin.isatty() and not self.options.no_input

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask before something is lost. Raises InvalidValue where nobody can be asked, SkychimpError after a no."""
        if yes:
            return
        if not self.may_ask():
            raise InvalidValue(f"not done: {question}", "say it with --yes")
        if self.out.ask(f"{question} [y/N]").lower() not in ("y", "yes"):
            raise SkychimpError("not done")


def get_context(ctx: typer.Context, json: bool = False) -> Context:
    """The command's context, told whether it answers in JSON."""
    context: Context = ctx.obj
    context.out.json = context.out.json or json
    return context


def page(limit: int | None, offset: int, search: str | None, sort: str | None) -> "ListOptions":
    from skychimp.services.listing import ListOptions

    return ListOptions(limit, offset, search, sort)


def read_text(value: str) -> str:
    """The text of a file, or of stdin for `-`. Raises InvalidValue where it can't be read as UTF-8."""
    try:
        raw = sys.stdin.buffer.read() if value == "-" else Path(value).read_bytes()
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise InvalidValue(f"{value} can't be read: {error.strerror}", "name a readable file, or - for stdin") from None
    except UnicodeDecodeError:
        raise InvalidValue(f"{value} is not UTF-8 text") from None
