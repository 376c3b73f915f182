"""A mailing that is due, a run that sends it, and what the ledger says afterwards.

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
from skychimp.delivery.sending.dispatcher import Dispatcher, RunOptions, RunStats
from skychimp.delivery.sending.event_loop import run_in_event_loop
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
from skychimp.services.clients.importing import ClientRow
from skychimp.services.mailings import mailings
from skychimp.services.mailings.mailings import Audience, When
from skychimp.services.messages import messages
from skychimp.store.database import Store
from skychimp.transport import make_transport

T = TypeVar("T", bound=Table)

SKYCHIMP = str(Path(sys.executable).with_name("skychimp"))
SENDER = "Ada Lovelace <ada@skychimp.test>"


def settings(port: int, **more: Any) -> Settings:
    """One connection to a relay on this machine, and no patience where it is away, if not said otherwise."""
    return Settings.model_validate(_sections(_values(port, more)))


def mailing(
    store: Store,
    owner: Actor,
    addresses: Sequence[str] = ("bob@example.org", "eve@example.org"),
    *,
    subject: str = "Hello, {{ client.name }}",
    body: str = "Dear {{ client.name }},\n\nall is well.\n",
    every: Every = Every.ONCE,
) -> int:
    """A mailing that is due, to these addresses, with a message of its own; its id."""
    people = (ClientRow(n, email, email.partition("@")[0].title(), "", ()) for n, email in enumerate(addresses))
    assert importing.import_rows(store, owner, people, on_bad=print).bad == 0
    audience = Audience(client_ids=[client.id or 0 for client in rows(store, Client) if client.email in addresses])
    message = messages.create(store, owner, MessageContent(subject, body, Format.TEXT))
    when = When("now", None, every, "UTC")
    return mailings.create(store, owner, message_id=message.id, when=when, audience=audience).id


def send(store: Store, chosen: Settings, *, limit: int | None = None, later: timedelta = timedelta()) -> RunStats:
    """One run in this process, as the command does it; with `later`, one whose clock is so far ahead (never back)."""
    if not later:
        return send_due(store, chosen, RunOptions(limit=limit))
    chosen = with_sender(chosen)

    def now() -> datetime:
        return datetime.now(UTC) + later

    with registered_run(store, now) as lock:
        return run_in_event_loop(Dispatcher(store, chosen, make_transport(chosen, store.path), lock, now=now).send())


def start(store: Store, port: int, *arguments: str, **more: Any) -> "subprocess.Popen[str]":
    """The installed command, `skychimp run`, in a process of its own."""
    values = _values(port, more)
    ours = {f"SKYCHIMP_{name.upper()}": str(value) for name, value in values.items()}
    ours |= {"SKYCHIMP_STORE": str(store.path), "SKYCHIMP_CONFIG": os.devnull}
    others = {name: value for name, value in os.environ.items() if not name.startswith("SKYCHIMP_")}
    return subprocess.Popen(
        [SKYCHIMP, "run", "--json", *arguments],
        env=others | ours,
        cwd=store.path.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(true: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Wait until something has become true of what a process does. Fails where it ends before, or a minute goes by."""
    deadline = time.monotonic() + 60
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finish(process: "subprocess.Popen[str]", *signals: signal.Signals) -> tuple[int, str, str]:
    """Send these signals, and wait for the process: its status, stdout and stderr."""
    for number in signals:
        process.send_signal(number)
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out, err


# What the ledger says


def rows(store: Store, table: type[T]) -> list[T]:
    """All rows of a table, in their order."""
    with store.read() as db:
        return list(db.exec(select(table).order_by(table.__table__.primary_key.columns.values()[0])))


def deliveries(store: Store) -> list[Delivery]:
    return rows(store, Delivery)


def attempts(store: Store) -> list[Attempt]:
    return rows(store, Attempt)


def states(store: Store) -> Counter[str]:
    """How many deliveries are in each state."""
    return Counter(delivery.state.value for delivery in deliveries(store))


def log(store: Store) -> list[tuple[str, str, int | None, str]]:
    """Outcome, phase, code and reply of every attempt."""
    return [(tried.outcome.value, tried.phase, tried.code, tried.reply) for tried in attempts(store)]


def status(store: Store, mailing_id: int) -> MailingStatus:
    return next(found for found in rows(store, Mailing) if found.id == mailing_id).status


def disabled(store: Store) -> dict[int | None, str | None]:
    """The mailings that the system has disabled, and its reasons."""
    return {
        found.id: found.disabled_reason
        for found in rows(store, Mailing)
        if found.disabled_at is not None and found.disabled_by_id is None
    }


def bad_clients(store: Store) -> dict[str, str | None]:
    """The clients whose address is bad, and why."""
    return {client.email: client.bad_reason for client in rows(store, Client) if client.bad_at is not None}


def paused(store: Store) -> dict[str, str]:
    """The relays that wait for a person, and why."""
    return {state.relay: state.reason for state in rows(store, RelayState)}


def addresses(count: int) -> list[str]:
    return [f"client{number}@example.org" for number in range(count)]


def sent_to(store: Store) -> set[str]:
    return {delivery.address for delivery in deliveries(store) if delivery.state == DeliveryState.SENT}


def _values(port: int, more: dict[str, Any]) -> dict[str, Any]:
    usual = {
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
    return usual | more


def _sections(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, key = name.partition("__")
        sections.setdefault(section, {})[key] = value
    return sections
