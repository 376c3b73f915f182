"""Create a due mailing, run it, and read the results from the store.

Settings are named as in the environment: `smtp__timeout="1s"`.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from sqlmodel import select

from skychimp.config.settings import Settings
from skychimp.delivery.composing.compose import MessageContent
from skychimp.delivery.sending.dispatcher import Dispatcher, RunOptions
from skychimp.delivery.sending.event_loop import run_in_event_loop
from skychimp.delivery.sending.outcomes import RunStats
from skychimp.delivery.sending.runner import registered_run, send_due, with_sender
from skychimp.models import (
    Attempt,
    Client,
    Delivery,
    DeliveryState,
    Every,
    Format,
    Mailing,
    MailingStatus,
    RelayState,
    Table,
)
from skychimp.permissions import Actor
from skychimp.services.clients import importing
from skychimp.services.clients.importing import ImportedRow
from skychimp.services.mailings import mailings
from skychimp.services.mailings.audience_input import Audience
from skychimp.services.mailings.schedules import ScheduleInput
from skychimp.services.messages import messages
from skychimp.store.conditions import current_attempts, current_state
from skychimp.store.database import SQLITE, Store
from skychimp.transport import make_transport
from support.stores import store_environ

T = TypeVar("T", bound=Table)

SKYCHIMP = str(Path(sys.executable).with_name("skychimp"))
SENDER = "Ada Lovelace <ada@skychimp.test>"


def make_settings(port: int, **overrides: Any) -> Settings:
    """Return settings for one connection to a server on this machine, without waiting if it is unavailable."""
    return Settings.model_validate(_sections(_values(port, overrides)))


def create_mailing(
    store: Store,
    owner: Actor,
    addresses: Sequence[str] = ("bob@example.org", "eve@example.org"),
    *,
    subject: str = "Hello, {{ client.name }}",
    body: str = "Dear {{ client.name }},\n\nall is well.\n",
    every: Every = Every.ONCE,
) -> int:
    """Create a due mailing to these addresses, with its own message, and return its ID."""
    people = (ImportedRow(n, email, email.partition("@")[0].title(), "", ()) for n, email in enumerate(addresses))
    assert importing.import_rows(store, owner, people, on_rejected=print).bad == 0
    audience = Audience(client_ids=[client.id or 0 for client in rows(store, Client) if client.email in addresses])
    message = messages.create(store, owner, MessageContent(subject, body, Format.TEXT))
    schedule = ScheduleInput("now", None, every, "UTC")
    return mailings.create(store, owner, message_id=message.id, schedule=schedule, audience=audience).id


def send(store: Store, settings: Settings, *, limit: int | None = None, later: timedelta = timedelta()) -> RunStats:
    """Send in one run in this process, with a clock that is ahead by `later`. A later call must not set it back."""
    if not later:
        return send_due(store, settings, RunOptions(limit=limit))
    settings = with_sender(settings)

    def now() -> datetime:
        return datetime.now(UTC) + later

    with registered_run(store, now) as lock:
        return run_in_event_loop(
            Dispatcher(store, settings, make_transport(settings, store.path), lock, now=now).send()
        )


def start_run(store: Store, port: int, *arguments: str, **overrides: Any) -> "subprocess.Popen[str]":
    """Start the installed command `skychimp run` in its own process."""
    values = _values(port, overrides)
    ours = {f"SKYCHIMP_{name.upper()}": str(value) for name, value in values.items()}
    ours |= store_environ(store) | {"SKYCHIMP_CONFIG": os.devnull}
    others = {name: value for name, value in os.environ.items() if not name.startswith("SKYCHIMP_")}
    return subprocess.Popen(
        [SKYCHIMP, "run", "--json", *arguments],
        env=others | ours,
        cwd=store.path.parent if store.dialect == SQLITE else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Wait until a condition is true. Fails if the process ends before, or after a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_exit(process: "subprocess.Popen[str]", *signals: signal.Signals) -> tuple[int, str, str]:
    """Send these signals to a process, wait for it, and return its exit status, stdout and stderr."""
    for number in signals:
        process.send_signal(number)
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out, err


# Reading the store


def rows(store: Store, table: type[T]) -> list[T]:
    """Return all rows of a table, in order."""
    with store.read() as db:
        return list(db.exec(select(table).order_by(table.__table__.primary_key.columns.values()[0])))


def deliveries(store: Store) -> list[Delivery]:
    """Return all deliveries with their present states and numbers of attempts."""
    with store.read() as db:
        query = select(Delivery, current_state(), current_attempts()).order_by(Delivery.__table__.c.id)
        found = db.execute(query).all()
        for delivery, state, number in found:
            db.expunge(delivery)
            delivery.state, delivery.attempts = DeliveryState(state), number
        return [delivery for delivery, *_ in found]


def attempts(store: Store) -> list[Attempt]:
    return rows(store, Attempt)


def state_counts(store: Store) -> Counter[str]:
    """Return the number of deliveries in each state."""
    with store.read() as db:
        return Counter(str(state) for state in db.scalars(select(current_state()).select_from(Delivery)))


def attempt_log(store: Store) -> list[tuple[str, str, int | None, str]]:
    """Return the outcome, phase, code and reply of each attempt."""
    return [(attempt.outcome.value, attempt.phase, attempt.code, attempt.reply) for attempt in attempts(store)]


def mailing_status(store: Store, mailing_id: int) -> MailingStatus:
    return next(mailing for mailing in rows(store, Mailing) if mailing.id == mailing_id).status


def disabled_mailings(store: Store) -> dict[int | None, str | None]:
    """Return the mailings that the system has disabled, with the reasons."""
    return {
        mailing.id: mailing.disabled_reason
        for mailing in rows(store, Mailing)
        if mailing.disabled_at is not None and mailing.disabled_by_id is None
    }


def bad_clients(store: Store) -> dict[str, str | None]:
    """Return the clients with a bad address, with the reasons."""
    return {client.email: client.bad_reason for client in rows(store, Client) if client.bad_at is not None}


def paused_relays(store: Store) -> dict[str, str]:
    """Return the paused relays, with the reasons."""
    return {state.relay: state.reason for state in rows(store, RelayState) if state.settings_hash}


def make_addresses(count: int) -> list[str]:
    return [f"client{number}@example.org" for number in range(count)]


def sent_addresses(store: Store) -> set[str]:
    return {delivery.address for delivery in deliveries(store) if delivery.state == DeliveryState.SENT}


def _values(port: int, overrides: dict[str, Any]) -> dict[str, Any]:
    defaults = {
        "mail__transport": "smtp",
        "mail__sender": SENDER,
        "smtp__host": "127.0.0.1",
        "smtp__port": port,
        "smtp__security": "none",
        "smtp__connections": 1,
        "smtp__timeout": "20s",
        "smtp__dot_timeout": "20s",
        "run__patience": "0s",
    }
    return defaults | overrides


def _sections(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, key = name.partition("__")
        sections.setdefault(section, {})[key] = value
    return sections
