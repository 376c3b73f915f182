"""The `skychimp service install` and `remove` commands: let systemd or cron send what is due, and stop that."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Context, Json, Yes, get_context
from skychimp.cli.display.missing_variables import PASSWORD_FILES, warn_of_missing_variables
from skychimp.config import shared
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.services.installing.steps import Step

INSTALL_EXAMPLE = "skychimp service install --user"
REMOVE_EXAMPLE = "skychimp service remove --user"

User = Annotated[bool, typer.Option("--user", help="A service of your account, not of the system.", show_default=False)]


@dataclass(frozen=True)
class Changed:
    """What was set up or removed: a service of `systemd` or a line for `cron`, by these steps."""

    service: str
    steps: list[str]


def install(ctx: typer.Context, user: User = False, yes: Yes = False, json: Json = False) -> None:
    """Let systemd or cron send due mailings from now on, also after a restart.

    With systemd, this sets up and starts the daemon: as root for the system, or with --user for your account. Without
    systemd, it adds a line to your crontab. It shows what it does first, and changes nothing that it did not write.

    [bold]skychimp service remove[/bold] undoes it.
    """
    from skychimp.delivery.sending.runner import with_sender
    from skychimp.services.installing import crontab, systemd

    context = get_context(ctx, json)
    shared.require_operator(tr("set up services"))
    with_sender(context.settings)  # raises ConfigError without a sender: nothing could be sent
    _ = context.store  # raises StoreNotReady
    has_systemd = systemd.is_running()
    warn_of_missing_variables(context, carried=PASSWORD_FILES if has_systemd and not user else ())
    steps = (
        systemd.install_steps(context.settings, user=user) if has_systemd else crontab.install_steps(context.settings)
    )
    _perform(context, "set up the service", steps, yes=yes, by="systemd" if has_systemd else "cron")
    if has_systemd:
        _warn_about_account(context, user)
    context.out.next("status")


def remove(ctx: typer.Context, user: User = False, yes: Yes = False, json: Json = False) -> None:
    """Undo [bold]skychimp service install[/bold]. The store and the config stay."""
    from skychimp.services.installing import crontab, systemd

    context = get_context(ctx, json)
    shared.require_operator(tr("remove services"))
    has_systemd = systemd.is_running()
    steps = systemd.remove_steps(user=user) if has_systemd else crontab.remove_steps(context.settings)
    _perform(context, "remove the service", steps, yes=yes, by="systemd" if has_systemd else "cron")


def _perform(context: Context, action: str, steps: "Sequence[Step]", *, yes: bool, by: str) -> None:
    """Show steps, ask, and perform them. Raises SkychimpError if one of them fails."""
    from skychimp.services.installing.steps import perform

    for step in steps:
        context.out.note(str(step))
    context.confirm(action, yes=yes)
    perform(steps)
    context.out.record(Changed(by, [str(step) for step in steps]), None if context.out.json else ["service"])


def _warn_about_account(context: Context, user: bool) -> None:
    """Say what is wrong with the account that the service runs on, if anything is."""
    import os

    from skychimp.files import account_name
    from skychimp.services.installing import systemd

    account = account_name(os.geteuid())
    if user and not systemd.is_lingering(account):
        context.out.note(tr("the service stops when you log out; to keep it running: loginctl enable-linger"))
    elif not user and os.geteuid() == 0:
        context.out.warn(tr("warning: the service runs as root; an account of its own is safer"))
