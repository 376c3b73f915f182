"""`skychimp doctor`: check whether this installation can send, and how to fix it if not."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Context, Json, Operator, Yes, get_context
from skychimp.errors import ConfigError, InvalidValue
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.services.operations.findings import Finding

app = typer.Typer(rich_markup_mode="rich")

EXIT_PROBLEM, EXIT_NOT_READY = 1, 3
DELIVERABILITY_COLUMNS = {
    "provider": tr("Provider"), "requirement": tr("Requirement"), "status": tr("Status"), "fix": tr("Fix"), "source": tr("Source"),
}  # fmt: skip
COLUMNS = {"level": tr("Level"), "about": tr("About"), "found": tr("Result"), "remedy": tr("Fix")}


@app.command(
    epilog="skychimp doctor\nskychimp doctor --deliverability\nskychimp doctor --dkim-selector s1\n"
    "skychimp doctor --accept-clock --operator"
)
def doctor(
    ctx: typer.Context,
    dkim_selector: Annotated[
        str | None,
        typer.Option(help="DKIM selector of your mail server (default: tries common ones).", metavar="NAME"),
    ] = None,
    deliverability: Annotated[
        bool, typer.Option("--deliverability", help="Show what Gmail, Yahoo, Microsoft and others require of senders.")
    ] = False,
    accept_clock: Annotated[
        bool,
        typer.Option("--accept-clock", help="Trust this machine's clock, and compute all due times again."),
    ] = False,
    operator: Operator = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Check the configuration and the mail server.

    Also checks the store, the clock and the sender's domain, and shows how to fix each problem. Nothing is sent.

    Exits with status 3 if the configuration or the store is not ready, and 1 for other problems. Warnings do not change
    the exit status.
    """
    from skychimp.config import shared

    context = get_context(ctx, json)
    if accept_clock and deliverability:
        raise InvalidValue(tr("--accept-clock and --deliverability cannot be combined"), tr("use one of them"))
    if deliverability:
        _show_deliverability(context, dkim_selector)
        return
    if accept_clock:
        shared.require_operator(tr("use --accept-clock"))
        _accept_clock(context, operator=operator, yes=yes)
        return
    if operator:
        raise InvalidValue(tr("--operator requires --accept-clock"), tr("leave it out: doctor needs no login"))
    findings, checks = [], _check(context, dkim_selector)
    with context.out.progress("checking") as report_progress:
        for finding in checks:
            findings.append(finding)
            report_progress(len(findings), finding.about)
    problems = {finding.about for finding in findings if finding.level == "problem"}
    if context.out.json:
        rows = [asdict(finding) | {"ok": finding.level == "ok"} for finding in findings]
        context.out.record({"ok": not problems, "findings": rows})
    else:
        context.out.rows(findings, COLUMNS)
    if problems:
        raise typer.Exit(EXIT_NOT_READY if problems & {"config", "store"} else EXIT_PROBLEM)


def _show_deliverability(context: Context, dkim_selector: str | None) -> None:
    """Show each requirement of each mailbox provider, and whether it is met."""
    from skychimp.delivery.sending.runner import with_sender
    from skychimp.services.operations import deliverability, sender_dns

    settings = context.settings
    with_sender(settings)  # raises ConfigError without a sender
    lookup = sender_dns.make_lookup(settings.dns.address)
    with context.out.progress("checking") as report_progress:
        rows = []
        for row in deliverability.compare(settings, lookup, dkim_selector):
            rows.append(row)
            report_progress(len(rows), row.provider)
    context.out.rows(rows, DELIVERABILITY_COLUMNS, optional=("source",))


def _accept_clock(context: Context, *, operator: bool, yes: bool) -> None:
    """Accept the clock after asking. For administrators and the operator."""
    from skychimp.permissions import Action
    from skychimp.services.operations import clock

    actor = context.maintenance_actor(operator, Action.ACCEPT_CLOCK)
    context.confirm(
        tr("take {now:%Y-%m-%d %H:%M} UTC as the right time for all mailings", now=context.store.now()), yes=yes
    )
    accepted = clock.accept(context.store, actor)
    for due in accepted.passed:
        context.out.note(
            tr(
                "mailing {mailing_id}: due at {isoformat} was opened already; not sent again",
                mailing_id=due.mailing_id,
                isoformat=due.due_at.isoformat(),
            )
        )
    record = asdict(accepted)
    context.out.record(
        {"clock": "accepted", **record}, None if context.out.json else ["clock", "mailings", "restored", "requeued"]
    )
    context.out.next("run", "--plan")


def _check(context: Context, dkim_selector: str | None) -> "Iterator[Finding]":
    """Return all findings as they are made. If the settings cannot be loaded, that is the only one.

    The settings are loaded at once: it may ask a question, which a progress bar would hide.
    """
    from skychimp.services.operations import doctor
    from skychimp.services.operations.findings import PROBLEM, Finding

    try:
        settings = context.settings
    except ConfigError as error:
        return iter([Finding("config", PROBLEM, error.message, error.hint)])
    return doctor.check_installation(settings, lambda: context.store, dkim_selector)
