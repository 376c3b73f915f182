"""`skychimp doctor`: can this installation send, and what to mend where it can't."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Context, Json, get_context
from skychimp.errors import ConfigError

if TYPE_CHECKING:
    from skychimp.services.operations.findings import Finding

app = typer.Typer(rich_markup_mode="rich")

NOT_WELL, NOT_READY = 1, 3
COLUMNS = {"level": "Level", "about": "About", "found": "What was found", "remedy": "To mend it"}


@app.command(epilog="skychimp doctor\nskychimp doctor --dkim-selector s1")
def doctor(
    ctx: typer.Context,
    dkim_selector: Annotated[
        str | None,
        typer.Option(help="The selector by which your relay signs; the usual ones if not given.", metavar="NAME"),
    ] = None,
    accept_clock: Annotated[
        bool, typer.Option("--accept-clock", help="This machine's clock is right: compute the next times anew.")
    ] = False,
    json: Json = False,
) -> None:
    """Check config, store, clock, relay and the sender's domain, and say how to mend each.

    Leaves with 0 where there are warnings at most, with 3 where config or store is not ready, else with 1.
    """
    from skychimp.services.operations import doctor as service

    context = get_context(ctx, json)
    if accept_clock:
        context.out.one({"clock": "accepted", "mailings": service.accept_clock(context.store)})
        context.out.next("run --plan")
        return
    findings = []
    with context.out.progress("looking") as tell:
        for finding in _examine(context, dkim_selector):
            findings.append(finding)
            tell(len(findings), finding.about)
    problems = {finding.about for finding in findings if finding.level == "problem"}
    if context.out.json:
        rows = [asdict(finding) | {"ok": finding.level == "ok"} for finding in findings]
        context.out.one({"ok": not problems, "findings": rows})
    else:
        context.out.rows(findings, COLUMNS)
    if problems:
        raise typer.Exit(NOT_READY if problems & {"config", "store"} else NOT_WELL)


def _examine(context: Context, selector: str | None) -> "Iterator[Finding]":
    """All findings; a config that can't be read is the only one."""
    from skychimp.services.operations import doctor
    from skychimp.services.operations.findings import PROBLEM, Finding

    try:
        settings = context.settings
    except ConfigError as error:
        yield Finding("config", PROBLEM, error.message, error.hint)
        return
    yield from doctor.examine(settings, lambda: context.store, selector)
