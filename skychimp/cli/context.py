"""Provide a command with its settings, store and actor, each read when the command first asks for it."""

import contextlib
import gc
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from skychimp.cli import interrupts
from skychimp.cli.output import YES, Output
from skychimp.errors import Denied, InvalidValue, SkychimpError
from skychimp.text import count_of
from skychimp.translation import Phrase, tr, translated

if TYPE_CHECKING:
    from skychimp.config.config_file import UntrustedConfig
    from skychimp.config.settings import Settings
    from skychimp.config.trust import ConfigFiles
    from skychimp.permissions import Action, Actor
    from skychimp.services.listing import ListOptions
    from skychimp.store.database import Store

LogFormat = Annotated[
    Literal["human", "logfmt", "json"] | None,
    typer.Option(help="Format of the log (default: human on a terminal, otherwise logfmt).", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Output as JSON.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.", show_default=False)]
Operator = Annotated[
    bool,
    typer.Option("--operator", help="Act as the operator of this installation, without a login.", show_default=False),
]
Limit = Annotated[int | None, typer.Option(min=0, help="Show at most N rows.", metavar="N")]
Offset = Annotated[int, typer.Option(min=0, help="Skip the first N rows.", metavar="N", show_default=False)]
Search = Annotated[str | None, typer.Option(help="Only rows that contain this text.", metavar="TEXT")]
Sort = Annotated[str | None, typer.Option(help="Sort by this column, or -COLUMN to reverse.", metavar="COLUMN")]

MailingName = Annotated[str, typer.Argument(metavar="MAILING", help="Mailing ID or name.", show_default=False)]
MailingNames = Annotated[
    list[str], typer.Argument(metavar="MAILING...", help="Mailing IDs or names.", show_default=False)
]

MAX_TEXT_SIZE = 4_000_000
"""Bytes of a file with a text, such as a message's body. What the text is for may allow less."""


@dataclass(frozen=True)
class GlobalOptions:
    """The global options that say what a command works with. Those about its output are in Output."""

    config: Path | None = None
    store: str | None = None
    verbose: bool = False
    no_input: bool = False


@dataclass
class Context:
    """What a command works with: the global options, the settings, the store and the user who is logged in."""

    options: GlobalOptions = GlobalOptions()
    out: Output = field(default_factory=Output)
    overrides: dict[str, str] = field(default_factory=dict)
    """Settings that the command's own options give, by name: `{"daemon.interval": "30s"}`."""

    is_unattended: bool = False
    """Whether the command never asks about the config, because it runs by itself: `run` and `daemon`."""

    invocation: typer.Context | None = None
    """The command that runs, with its arguments."""

    _is_trusted: "dict[ConfigFiles | None, bool]" = field(default_factory=dict)

    @cached_property
    def settings(self) -> "Settings":
        """The settings. Raises ConfigError."""
        from skychimp.config import sources

        settings = sources.load_settings(self.flags, config_file=self.options.config, ask_trust=self.ask_trust)
        if self.options.verbose:
            self.out.note(tr("config: {config_file}", config_file=settings.config_file or tr("none")))
            self.out.note(tr("store:  {store_name}", store_name=settings.store_name))
        return settings

    @property
    def flags(self) -> Mapping[str, str]:
        """The settings that the command line gives, by name."""
        store = {"store.url": self.options.store} if self.options.store is not None else {}
        return store | self.overrides

    def reload(self) -> "Settings":
        """Read the settings again. Raises ConfigError, and then keeps the ones it had."""
        from skychimp.config import sources

        self.settings = sources.load_settings(self.flags, config_file=self.options.config, ask_trust=self.ask_trust)
        return self.settings

    @cached_property
    def store(self) -> "Store":
        """The open store. Raises StoreNotReady."""
        from skychimp.store.schema import open_store

        store = open_store(self.settings.store_url, self.settings.store.read_password())
        gc.freeze()  # never look again at what was imported, and collect what is created from here on
        gc.enable()
        return store

    def close(self) -> None:
        """Close the store if it is open."""
        if "store" in vars(self):
            self.store.close()

    @cached_property
    def token(self) -> str | None:
        """The session's token, from the environment or saved by `skychimp login`. Raises NotLoggedIn."""
        from skychimp.cli import saved_session

        return os.environ.get("SKYCHIMP_TOKEN") or saved_session.read(self.settings.store_url)

    @cached_property
    def actor(self) -> "Actor":
        """The user who is logged in, or ANONYMOUS."""
        from skychimp.services.accounts import sessions

        return sessions.find_actor(self.store, self.token)

    def find_mailing(self, name: str) -> int:
        """Return the id of a mailing that the user may see, by its id or name. Raises NotFound.

        An id is returned unchecked.
        """
        from skychimp.services.mailings import mailings

        return mailings.find_id(self.store, self.actor, name)

    def maintenance_actor(self, operator: bool, action: "Action") -> "Actor":
        """Return who maintains the store: the operator if the option is given, else the user who is logged in.

        Raises NotLoggedIn, and Denied to a user whose role does not allow the action, and to somebody who may not be
        the operator of a shared installation.
        """
        from skychimp.permissions import OPERATOR, authorize

        if operator:
            from skychimp.config import shared

            shared.require_operator(tr("use --operator"), tr("log in as an administrator"))
            return OPERATOR
        try:
            authorize(self.actor, action)
        except Denied as error:
            hint = tr("log in as an administrator, or use --operator if you run this installation")
            raise type(error)(error.message, hint) from None
        return self.actor

    def parse_past(self, text: str | None) -> datetime | None:
        """Return the time that an option such as --since names, or None without it. `3d` means that long ago.

        Raises InvalidValue, and ConfigError for a local time if the system's time zone has no name.
        """
        from skychimp.delivery.scheduling.time_input import parse_past
        from skychimp.durations import is_duration

        if text is None:
            return None
        timezone = "UTC" if is_duration(text.strip()) else self.settings.mail.read_timezone()
        return parse_past(text, timezone, datetime.now(UTC))

    def ask_trust(self, untrusted: "UntrustedConfig") -> bool:
        """Return whether the user trusts a config in the current folder. Asks or warns once, unless it changes."""
        from skychimp.cli.display import config_trust

        if untrusted.read not in self._is_trusted:
            can_ask = self.can_prompt() and sys.stderr.isatty() and not self.is_unattended
            self._is_trusted[untrusted.read] = config_trust.decide(self.out, untrusted, can_ask=can_ask)
        return self._is_trusted[untrusted.read]

    def can_prompt(self) -> bool:
        """Return whether the user can be asked something."""
        return sys.stdin.isatty() and not self.options.no_input

    def confirm(self, action: Phrase, *, yes: bool, option: str = "--yes") -> None:
        """Ask before an action that loses something, such as "delete client 5". `option` is the one that agrees.

        Raises InvalidValue if nobody can be asked, and SkychimpError if the answer is not yes.
        """
        if yes:
            return
        if not self.can_prompt():
            raise InvalidValue(
                tr("refusing to {action} without confirmation", action=action), tr("pass {option}", option=option)
            )
        shown = translated(action)
        question = tr("{action}? [y/N]", action=f"{shown[:1].upper()}{shown[1:]}")
        if self.out.ask(question).lower() not in YES:
            raise SkychimpError(tr("cancelled"))

    def can_ask_to_send(self, *, yes: bool) -> bool:
        """Return whether somebody is asked before emails go to more than one client."""
        return not yes and self.can_prompt() and sys.stderr.isatty()

    def confirm_sending(self, number: int, *, yes: bool, first: int | None = None) -> None:
        """Ask before emails go to more than one client, if there is somebody to ask. Raises SkychimpError for a no.

        `first` is how many of them get it now, if the others get it later.
        """
        if number > 1 and self.can_ask_to_send(yes=yes):
            clients = count_of(number, "client")
            is_part = first is not None and first < number
            recipients = tr("{first:,} of {clients}", first=first, clients=clients) if is_part else clients
            answer = self.out.ask(tr("Send to {recipients} now? [y/N]", recipients=recipients))
            if answer.lower() not in YES:
                raise SkychimpError(tr("cancelled"))


def get_context(ctx: typer.Context, json: bool = False) -> Context:
    """Return the command's context, and make its output JSON if the command's option says so."""
    interrupts.raise_on_interrupt()
    context: Context = ctx.obj
    context.invocation = ctx
    context.out.json = context.out.json or json
    return context


def list_options(limit: int | None, offset: int, search: str | None, sort: str | None) -> "ListOptions":
    """Return the options of a list."""
    from skychimp.services.listing import ListOptions

    return ListOptions(limit, offset, search, sort)


def read_text(file: str) -> str:
    """Return the text of a file, or of stdin if its name is `-`.

    Raises InvalidValue if it is not readable UTF-8 or is larger than MAX_TEXT_SIZE, and Denied as `open_input_file`
    does.
    """
    from skychimp.config.named_files import open_input_file

    try:
        with contextlib.nullcontext(sys.stdin.buffer) if file == "-" else open_input_file(file) as opened:
            data = opened.read(MAX_TEXT_SIZE + 1)
        if len(data) > MAX_TEXT_SIZE:
            raise InvalidValue(
                tr("{file} is larger than {megabytes} MB", file=file, megabytes=MAX_TEXT_SIZE // 1_000_000),
                tr("use a smaller file"),
            )
        return data.decode("utf-8-sig")
    except OSError as error:
        raise InvalidValue(
            tr("cannot read {file}: {strerror}", file=file, strerror=error.strerror),
            tr("use the path of a readable file, or - for stdin"),
        ) from None
    except UnicodeDecodeError:
        raise InvalidValue(tr("{file} is not valid UTF-8", file=file), tr("save it as UTF-8")) from None
