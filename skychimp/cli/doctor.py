"""`skychimp doctor`: can this installation send, and what to mend where it can't."""

from dataclasses import asdict
from typing import Annotated

import typer

from skychimp.cli.context import Json, enter

app = typer.Typer(rich_markup_mode="rich")

NOT_WELL = 1


@app.command(epilog="skychimp doctor")
def doctor(
    ctx: typer.Context,
    accept_clock: Annotated[
        bool, typer.Option("--accept-clock", help="This machine's clock is right: compute the next times anew.")
    ] = False,
    json: Json = False,
) -> None:
    """Check config, store, clock and relay, and say how to mend each; leaves with 1 where something is not well."""
    from skychimp.services import doctor as service

    here = enter(ctx, json)
    if accept_clock:
        here.out.one({"clock": "accepted", "mailings": service.accept_clock(here.store)})
        here.out.next("run --plan")
        return
    findings = []
    for finding in service.examine(here.store, here.settings):
        findings.append(finding)
        if not json:
            here.out.text(f"{'ok   ' if finding.ok else 'FAULT'}  {finding.about}: {finding.found}")
            if finding.remedy:
                here.out.text(f"       {finding.remedy}")
    if json:
        here.out.one({"ok": all(finding.ok for finding in findings), "findings": [asdict(one) for one in findings]})
    if not all(finding.ok for finding in findings):
        raise typer.Exit(NOT_WELL)
