"""`skychimp report`: what became of a mailing."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated

import typer

from skychimp.cli.context import Json, enter

app = typer.Typer(rich_markup_mode="rich")

SHOWN = ("sent", "deferred", "failed", "unknown", "queued", "expired", "cancelled")
COLUMNS = {"due_at": "Due", "state": "State", **{name: name.capitalize() for name in SHOWN}, "attempts": "Attempts"}

FOR_EYES = {"due_at": "Due", "state": "State", "became": "Its letters", "attempts": "Attempts"}


@app.command(epilog="skychimp report 1 --json")
def report(
    ctx: typer.Context,
    mailing: Annotated[int, typer.Argument(metavar="ID", help="A mailing's id.", show_default=False)],
    json: Json = False,
) -> None:
    """Show what became of a mailing: how many of its letters are where, for each of its due times."""
    from skychimp.services import reports

    here = enter(ctx, json)
    found = reports.report(here.store, here.actor, mailing)
    if json:
        whole = asdict(found)
        whole["occurrences"] = [_flat(occurrence) for occurrence in whole["occurrences"]]
        here.out.one(_flat(whole))
        return
    rows = [
        _Row(
            row.due_at,
            row.state,
            attempts=row.attempts,
            queued=row.counts["queued"] + row.counts["claimed"] + row.counts["sending"],  # type: ignore[index]
            **{name: row.counts[name] for name in SHOWN if name != "queued"},  # type: ignore[index]
        )
        for row in found.occurrences
    ]
    columns = FOR_EYES if here.out.on_terminal else COLUMNS
    here.out.rows(rows, columns, empty="it has not been due yet")
    here.out.note(f"the server's words: skychimp mailings log {mailing}")


def _flat(record: dict[str, object]) -> dict[str, object]:
    """The counts by state, beside the other fields."""
    counts = record.pop("counts")
    return {**record, **{str(state): number for state, number in counts.items()}}  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _Row:
    due_at: datetime
    state: str
    sent: int
    deferred: int
    failed: int
    unknown: int
    queued: int
    expired: int
    cancelled: int
    attempts: int

    @property
    def became(self) -> str:
        """The counts in words, without those of none."""
        return ", ".join(f"{getattr(self, name)} {name}" for name in SHOWN if getattr(self, name)) or "none"
