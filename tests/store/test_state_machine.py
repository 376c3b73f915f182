"""Run the life of many deliveries in random order against a model, and check invariants after each step.

Runs claim, record intents and record attempts in the real ledger. They crash, seem dead while they go on, and get late
replies. Mailings and clients are added and deleted, and time passes. The model knows what each run has claimed, which
emails have arrived, and who is in an audience. In the end everything pending is sent, and all occurrences finish.
"""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import event
from support import queue_steps
from support.queue_steps import DAY, MINUTE, NOW, write
from support.saved_rows import SavedRows, restore_rows, save_rows

from skychimp.models import (
    EVERYBODY,
    SUCCESSES,
    Client,
    DeliveryState,
    Every,
    Mailing,
    MailingStatus,
    OccurrenceState,
    Outcome,
    SuppressionSource,
)
from skychimp.permissions import Actor
from skychimp.services.operations import integrity
from skychimp.store import holds, queue, runs
from skychimp.store.clients import suppressions
from skychimp.store.clients.suppressions import Holds, NewSuppression
from skychimp.store.database import SQLITE, Store
from skychimp.store.occurrences import opening
from skychimp.store.queue import ClaimedDelivery

S = DeliveryState
OWNER_ID = 1
BATCH = 3
MOST_CLIENTS, MOST_MAILINGS, MOST_RUNS = 6, 8, 3
STEPS = ["claim"] * 3 + ["intend"] * 3 + ["reply"] * 3 + ["release", "rescue", "disable and enable", "delete", "wait"]
OUTCOMES = [*Outcome, Outcome.DEFERRED, Outcome.UNKNOWN, Outcome.GIVEN_BACK]
WITHOUT_DOT = (Outcome.DEFERRED, Outcome.FAILED, Outcome.GIVEN_BACK)

indexes = st.integers(0, 11)
"""An index into a list, modulo its length."""


class Move(NamedTuple):
    """The next step of a run with some of its claims. A run without claims claims some deliveries.

    The flags say of an unknown email that it has arrived, or that a person decides; of a failed one that its address
    is bad; and of attempts that they change their deliveries' rows at once.
    """

    run_index: int
    step: str
    occurrence_index: int
    claim_indexes: set[int]
    outcomes: list[Outcome]
    flags: set[str]


moves = st.builds(
    Move,
    indexes,
    st.sampled_from(STEPS),
    indexes,
    st.sets(indexes, min_size=1, max_size=3),
    st.lists(st.sampled_from(OUTCOMES), min_size=3, max_size=3),
    st.sets(st.sampled_from(["arrived", "hold", "bad", "fold"])),
)
waits = st.sampled_from([timedelta(), MINUTE, *[5 * MINUTE, 15 * MINUTE] * 5, DAY, 3 * DAY])


@dataclass
class RunClaim:
    """A delivery that a run has claimed, and whether it may write the final dot."""

    claimed: ClaimedDelivery
    is_intended: bool = False


@dataclass
class RunProcess:
    """A run and its claims. A crashed run has none, and does nothing more."""

    run_id: int
    claims: list[RunClaim] = field(default_factory=list)
    lease_ids: set[int] = field(default_factory=set)
    is_alive: bool = True


@dataclass
class DeliveryRow:
    """A delivery in the ledger, with number and outcome of its attempts."""

    id: int
    occurrence_id: int
    client_id: int
    state: DeliveryState
    attempts: int
    next_try_at: Any
    stored_state: DeliveryState
    run_id: int | None = None
    lease_id: int | None = None
    log: list[tuple[int, Outcome]] = field(default_factory=list)

    @property
    def is_waiting(self) -> bool:
        """Whether another try is due some time."""
        resend = self.state == S.UNKNOWN and self.next_try_at is not None
        return resend or self.state in (S.QUEUED, S.DEFERRED)

    @property
    def is_in_flight(self) -> bool:
        return self.state in (S.CLAIMED, S.SENDING)

    @property
    def outcomes(self) -> list[Outcome]:
        return [outcome for _, outcome in self.log]

    def is_claimed_as(self, claim: RunClaim, process: RunProcess) -> bool:
        """Return whether the ledger has this claim too."""
        return self.is_in_flight and (self.run_id, self.id, self.lease_id) == (
            process.run_id,
            claim.claimed.id,
            claim.claimed.lease_id,
        )


@dataclass
class OccurrenceRow:
    """An occurrence in the ledger."""

    id: int
    mailing_id: int
    state: OccurrenceState
    end_at: Any

    @property
    def is_unfinished(self) -> bool:
        return self.state in (OccurrenceState.OPENING, OccurrenceState.OPEN)


class Ledger(RuleBasedStateMachine):
    store: Store
    new_rows: SavedRows
    owner: Actor
    reader: Any
    """The driver's connection, with which the machine reads the ledger."""

    def __init__(self) -> None:
        super().__init__()
        restore_rows(self.store, self.new_rows)
        self.now = NOW
        self.processes: list[RunProcess] = []
        self.clients: set[int] = set()
        self.bad: set[int] = set()
        self.suppressed: set[int] = set()
        self.mailings: list[int] = []
        self.disabled: set[int] = set()
        self.audiences: dict[int, set[int]] = defaultdict(set)
        self.cursors: dict[int, int] = defaultdict(int)
        self.complete: set[int] = set()
        self.arrivals: Counter[int] = Counter()
        self.sent: set[int] = set()
        self.resolved_ids: set[int] = set()
        self.client_number = 0
        self.changes_left = 4  # how many mailings and clients may still be deleted or disabled
        self.refresh()

    def teardown(self) -> None:
        if sys.exc_info()[1] is None:
            self.finish_everything()

    def refresh(self) -> None:
        """Read the ledger."""
        columns = "id, occurrence_id, client_id, state, attempts, next_try_at"
        rows = self.reader.execute(f"SELECT {columns} FROM delivery ORDER BY id").fetchall()
        self.rows = {row[0]: DeliveryRow(row[0], row[1], row[2], S(row[3]), row[4], row[5], S(row[3])) for row in rows}
        for delivery_id, number, outcome in self.reader.execute(
            "SELECT delivery_id, number, outcome FROM attempt ORDER BY delivery_id, number"
        ):
            self.rows[delivery_id].log.append((number, Outcome(outcome)))
        self.apply_leases()
        rows = self.reader.execute(
            "SELECT occurrence.id, mailing_id, state, end_at FROM occurrence JOIN mailing ON mailing.id = mailing_id"
            " ORDER BY occurrence.id"
        ).fetchall()
        self.occurrences = [OccurrenceRow(row[0], row[1], OccurrenceState(row[2]), row[3]) for row in rows]
        rows = self.reader.execute("SELECT id, status, next_at FROM mailing ORDER BY id").fetchall()
        self.schedules = [(row[0], MailingStatus(row[1]), row[2]) for row in rows]

    def apply_leases(self) -> None:
        """Work out the present state of what is leased, without the expression that the store has for it."""
        for lease_id, run_id, ids in self.reader.execute("SELECT id, run_id, delivery_ids FROM lease"):
            for row in map(self.rows.__getitem__, json.loads(ids)):
                assert row.lease_id is None, "no delivery is in two leases"
                row.run_id, row.lease_id = run_id, lease_id
                if row.state in (S.QUEUED, S.DEFERRED):
                    row.state = S.CLAIMED
        for delivery_id, lease_id in self.reader.execute("SELECT delivery_id, lease_id FROM intent"):
            row = self.rows[delivery_id]
            assert (row.lease_id, row.state) == (lease_id, S.CLAIMED)
            new = [outcome for number, outcome in row.log if number == row.attempts + 1 and outcome in SUCCESSES]
            if new:
                state = S.SENT if Outcome.SENT in row.outcomes else S(new[0])
                row.state, row.attempts, row.next_try_at = state, row.attempts + 1, None
            else:
                row.state = S.SENDING

    @property
    def living(self) -> list[RunProcess]:
        return [process for process in self.processes if process.is_alive]

    # Setting up

    @initialize(
        number=st.integers(2, MOST_CLIENTS), every=st.sampled_from([Every.ONCE, Every.DAY]), batches=st.integers(0, 2)
    )
    def begin(self, number: int, every: Every, batches: int) -> None:
        """Begin with a due mailing and two runs."""
        for _ in range(number):
            self.add_client()
        self.add_mailing(every)
        for _ in range(batches):
            self.create_deliveries(self.occurrences[0])
        for _ in range(2):
            self.start_run()

    @precondition(lambda self: self.client_number < MOST_CLIENTS)
    @rule()
    def add_client(self) -> None:
        self.client_number += 1
        self.clients.add(queue_steps.create_client(self.store, self.owner, f"c{self.client_number}"))

    @precondition(lambda self: len(self.schedules) < MOST_MAILINGS)
    @rule(every=st.sampled_from([Every.ONCE, Every.DAY]))
    def add_mailing(self, every: Every) -> None:
        end_at = self.now + 2 * DAY + MINUTE if every == Every.DAY else None
        mailing_id = queue_steps.create_mailing(
            self.store, self.owner, every=every, start=self.now, end_at=end_at, created_at=self.now
        )
        self.mailings.append(mailing_id)
        self.open(index=-1)

    @precondition(lambda self: len(self.living) < MOST_RUNS)
    @rule()
    def start_run(self) -> None:
        self.processes.append(RunProcess(queue_steps.create_run(self.store)))

    @rule(index=indexes)
    def open(self, index: int) -> None:
        queue_steps.open_due(self.store, self.now)
        self.refresh()
        self.create_deliveries(self.occurrences[index % len(self.occurrences)])

    # Sending

    @precondition(lambda self: self.living and self.occurrences)
    @rule(moves=st.lists(moves, min_size=2, max_size=8))
    def work(self, moves: list[Move]) -> None:
        """Let runs make moves, each with several claims at once."""
        for move in moves:
            self.apply(move)
            self.check_all()

    work_2 = work_3 = work_4 = work  # chosen about as often as all other rules together

    @precondition(lambda self: self.living)
    @rule(run_index=indexes)
    def end_run(self, run_index: int) -> None:
        process = self.living[run_index % len(self.living)]
        self.end_process(process)
        self.processes.remove(process)

    @precondition(lambda self: self.living)
    @rule(run_index=indexes, arrived=st.integers(0, 15))
    def crash(self, run_index: int, arrived: int) -> None:
        """Kill a run. Its emails may have arrived or not, without a recorded reply."""
        process = self.living[run_index % len(self.living)]
        for number, claim in enumerate(process.claims):
            if claim.is_intended and arrived >> number & 1:
                self.arrivals[claim.claimed.id] += 1
        process.claims, process.is_alive = [], False

    @precondition(lambda self: len(self.living) < len(self.processes))
    @rule(waits_for_person=st.booleans())
    def rescue(self, waits_for_person: bool) -> None:
        """Rescue the deliveries of the crashed runs."""
        for process in [process for process in self.processes if not process.is_alive]:
            self.rescue_run(process, waits_for_person=waits_for_person)
            self.processes.remove(process)

    # People and time

    @precondition(lambda self: self.mailings and (self.disabled or self.changes_left > 0))
    @rule(index=indexes)
    def disable_or_enable(self, index: int) -> None:
        mailing_id = self.mailings[index % len(self.mailings)]
        self.changes_left -= mailing_id not in self.disabled
        if mailing_id in self.disabled:
            self.enable(mailing_id)
            return
        self.disable(mailing_id)

    @precondition(lambda self: len(self.mailings) > 1 and self.changes_left > 0)
    @rule(index=indexes)
    def delete_mailing(self, index: int) -> None:
        self.changes_left -= 1
        queue_steps.delete_mailing(self.store, self.mailings.pop(index % len(self.mailings)), self.now)

    @precondition(lambda self: self.clients and self.changes_left > 0)
    @rule(index=indexes)
    def delete_client(self, index: int) -> None:
        self.changes_left -= 1
        client_id = sorted(self.clients)[index % len(self.clients)]
        sending = [row for row in self.rows.values() if row.state == S.SENDING]
        queue_steps.delete_client(self.store, client_id)
        self.clients.remove(client_id)
        self.refresh()
        assert all(self.rows[row.id] == row for row in sending)

    @precondition(lambda self: self.clients and self.changes_left > 0)
    @rule(index=indexes, owner_id=st.sampled_from([EVERYBODY, OWNER_ID]))
    def suppress(self, index: int, owner_id: int) -> None:
        self.changes_left -= 1
        client_id = sorted(self.clients)[index % len(self.clients)]
        key = queue_steps.get_row(self.store, Client, client_id).address_key
        sending = [row for row in self.rows.values() if row.state == S.SENDING]
        new, holds = [NewSuppression(key, key, "unsubscribed")], Holds(owner_id)
        write(self.store, lambda db: suppressions.add(db, new, holds, SuppressionSource.COMMAND, self.now))
        self.suppressed.add(client_id)
        self.refresh()
        assert all(self.rows[row.id] == row for row in sending)

    @rule(wait=waits)
    def sweep(self, wait: timedelta) -> None:
        """Let time pass and sweep: occurrences without pending deliveries finish."""
        before = self.rows
        self.now += wait
        queue_steps.sweep(self.store, self.now)

        self.refresh()
        for row in before.values():
            if row.state in (S.UNKNOWN, S.SENDING):
                assert self.rows[row.id].state in (row.state, S.QUEUED, S.CANCELLED), "unknown does not expire"
        waiting = {row.occurrence_id for row in self.rows.values() if row.is_waiting or row.is_in_flight}
        for occurrence in self.occurrences:
            assert occurrence.state != OccurrenceState.OPEN or occurrence.id in waiting
        unfinished = {occurrence.mailing_id for occurrence in self.occurrences if occurrence.is_unfinished}
        for mailing_id, status, next_at in self.schedules:
            assert status != MailingStatus.RUNNING or next_at or mailing_id in unfinished

    @rule(resolved=st.sampled_from([S.SENT, S.FAILED, S.QUEUED]))
    def resolve(self, resolved: DeliveryState) -> None:
        """Resolve all unknown deliveries of mailings that are not deleted."""
        occurrence_ids = {occurrence.id for occurrence in self.occurrences if occurrence.mailing_id in self.mailings}
        ids = [row.id for row in self.rows.values() if row.state == S.UNKNOWN and row.occurrence_id in occurrence_ids]
        if resolved == S.QUEUED:
            write(self.store, lambda db: queue.resend(db, ids, self.now))
        else:
            write(self.store, lambda db: queue.resolve_as(db, ids, resolved))
            self.resolved_ids.update(ids)

    @rule()
    def send_from_outbox(self) -> None:
        """Queue everything that is in the outbox, of mailings that are not deleted."""
        occurrence_ids = {occurrence.id for occurrence in self.occurrences if occurrence.mailing_id in self.mailings}
        rows = [
            row for row in self.rows.values() if row.stored_state == S.OUTBOX and row.occurrence_id in occurrence_ids
        ]
        write(self.store, lambda db: queue.queue_written(db, [row.id for row in rows], self.now))
        self.check_states({row.id: S.QUEUED for row in rows})

    # Invariants

    @invariant()
    def check_all(self) -> None:
        self.refresh()
        unfinished = {occurrence.id: occurrence for occurrence in self.occurrences if occurrence.is_unfinished}
        assert queue_steps.states_and_attempts(self.store) == [(row.state, row.attempts) for row in self.rows.values()]
        for row in self.rows.values():
            assert [number for number, _ in row.log] == list(range(1, row.attempts + 1))
            self.check_sent(row)
            self.check_client(row)
            if row.is_waiting or row.is_in_flight:
                assert row.occurrence_id in unfinished, "a finished occurrence has no pending delivery"
        self.check_claims()
        self.check_audiences()
        busy = {occurrence.mailing_id for occurrence in unfinished.values()}
        for mailing_id, status, next_at in self.schedules:
            assert status != MailingStatus.COMPLETED or (next_at is None and mailing_id not in busy)

    def check_sent(self, row: DeliveryRow) -> None:
        """Check the promise: sent emails have arrived and stay sent, and only unknown ones can arrive twice."""
        assert row.state == S.SENT or row.id not in self.sent
        if row.state == S.SENT:
            self.sent.add(row.id)
            assert self.arrivals[row.id] >= 1 or row.id in self.resolved_ids
        if Outcome.SENT in row.outcomes:
            assert row.state in (S.SENT, S.SENDING)
        assert row.state != S.OUTBOX or Outcome.OUTBOX in row.outcomes
        assert self.arrivals[row.id] <= 1 + row.outcomes.count(Outcome.UNKNOWN)

    def check_client(self, row: DeliveryRow) -> None:
        """Check that nothing is pending for deleted clients, and for bad and suppressed addresses."""
        if self.is_gone(row):
            assert not row.is_waiting
            assert row.state != S.CLAIMED

    def check_claims(self) -> None:
        """Check that each delivery in flight is claimed by one run, or was by a crashed one."""
        crashed = {process.run_id for process in self.processes if not process.is_alive}
        for row in self.rows.values():
            if row.is_in_flight and row.run_id not in crashed:
                claims = [
                    claim for process in self.living for claim in process.claims if row.is_claimed_as(claim, process)
                ]
                assert len(claims) <= 1
                assert [claim.is_intended for claim in claims] == [row.state == S.SENDING] * len(claims)
                assert claims or row.state == S.CLAIMED

    def check_audiences(self) -> None:
        """Check that exactly the clients who were in the audience at their turn have a delivery, each one."""
        for occurrence in self.occurrences:
            if occurrence.state in (OccurrenceState.OPEN, OccurrenceState.FINISHED):
                assert occurrence.id in self.complete
        client_ids: dict[int, list[int]] = defaultdict(list)
        for row in self.rows.values():
            client_ids[row.occurrence_id].append(row.client_id)
        assert {occurrence_id: sorted(ids) for occurrence_id, ids in client_ids.items()} == {
            occurrence_id: sorted(ids) for occurrence_id, ids in self.audiences.items() if ids
        }

    def finish_everything(self) -> None:
        """Send everything pending, with all mailings enabled, and check that all occurrences finish."""
        assert list(integrity.find_faults(self.store)) == []
        for process in self.living:
            self.end_process(process)
        for process in self.processes:
            queue_steps.rescue(self.store, process.run_id, self.now)
        self.processes = [RunProcess(queue_steps.create_run(self.store))]
        for mailing_id in list(self.disabled):
            self.enable(mailing_id)
        queue_steps.sweep(self.store, self.now)
        for _ in range(2):
            self.refresh()
            for occurrence in self.occurrences:
                while occurrence.state == OccurrenceState.OPENING:
                    self.create_deliveries(occurrence)
                    self.refresh()
                    (occurrence,) = [now for now in self.occurrences if now.id == occurrence.id]
                self.claim_for(self.processes[0], occurrence, 100)
            self.record_intents(self.processes[0], list(self.processes[0].claims))
            self.end_process(self.processes[0])
            self.now += 15 * MINUTE
            queue_steps.sweep(self.store, self.now)

        self.check_all()
        assert not [row for row in self.rows.values() if row.is_waiting or row.is_in_flight]
        assert not [occurrence for occurrence in self.occurrences if occurrence.is_unfinished]

    # Steps

    def apply(self, move: Move) -> None:
        busy = [process for process in self.living if process.claims]
        candidates = busy if busy and move.step != "claim" else self.living
        process = candidates[move.run_index % len(candidates)]
        number = len(process.claims) or 1
        selected = {index % number for index in move.claim_indexes}
        claims = [claim for index, claim in enumerate(process.claims) if index in selected]
        if move.step == "wait":
            self.sweep(15 * MINUTE)
        elif move.step == "claim" or not claims:
            with_work = [occurrence for occurrence in self.occurrences if self.due(occurrence)] or self.occurrences
            occurrence = with_work[move.occurrence_index % len(with_work)]
            self.claim_for(process, occurrence, limit=1 + move.occurrence_index % 4)
        elif move.step == "intend":
            self.record_intents(process, claims)
        elif move.step == "reply":
            self.record_replies(process, claims, move.outcomes, move.flags)
        elif move.step == "release":
            self.give_back(process, claims)
        elif move.step == "rescue":
            self.rescue_run(process, waits_for_person="hold" in move.flags)
        elif move.step == "disable and enable":
            self.disable_and_enable(self.rows[claims[0].claimed.id].occurrence_id)
        elif self.changes_left > 0 and claims[0].claimed.client_id in self.clients:
            self.delete_client(sorted(self.clients).index(claims[0].claimed.client_id))
        self.close_leases(process)

    def create_deliveries(self, occurrence: OccurrenceRow) -> None:
        is_there = occurrence.mailing_id in self.mailings
        if occurrence.state == OccurrenceState.OPENING and is_there:
            coming = sorted(client_id for client_id in self.clients if client_id > self.cursors[occurrence.id])[:BATCH]
            self.audiences[occurrence.id].update(set(coming) - self.bad - self.suppressed)
            self.cursors[occurrence.id] = max(coming, default=self.cursors[occurrence.id])
            if len(coming) < BATCH:
                self.complete.add(occurrence.id)

        is_complete = write(self.store, lambda db: opening.create_deliveries(db, occurrence.id, BATCH))

        self.refresh()
        (now,) = [now for now in self.occurrences if now.id == occurrence.id]
        assert is_complete == (now.state != OccurrenceState.OPENING or not is_there)

    @property
    def stored_now(self) -> Any:
        """The time as the driver returns times."""
        return self.now.replace(tzinfo=None).isoformat(" ", "microseconds") if is_sqlite(self.store) else self.now

    def is_open(self, occurrence: OccurrenceRow) -> bool:
        """Return whether an occurrence may be sent now."""
        is_enabled = occurrence.mailing_id in self.mailings and occurrence.mailing_id not in self.disabled
        is_over = occurrence.end_at is not None and occurrence.end_at <= self.stored_now
        return is_enabled and occurrence.is_unfinished and not is_over

    def due(self, occurrence: OccurrenceRow) -> list[DeliveryRow]:
        """Return what may be claimed of an occurrence now."""
        if not self.is_open(occurrence):
            return []
        now = self.stored_now
        rows = [row for row in self.rows.values() if row.occurrence_id == occurrence.id]
        return [row for row in rows if row.state in (S.QUEUED, S.DEFERRED) and row.next_try_at <= now]

    def claim_for(self, process: RunProcess, occurrence: OccurrenceRow, limit: int) -> None:
        due = {row.id: row for row in self.due(occurrence)}

        claims = queue_steps.claim(self.store, process.run_id, now=self.now, limit=limit, occurrence_id=occurrence.id)

        assert all(due[claimed.id].attempts == claimed.attempts for claimed in claims)
        assert len({claimed.id for claimed in claims}) == len(claims)
        claimed_times = sorted(due[claimed.id].next_try_at for claimed in claims)
        assert claimed_times == sorted(row.next_try_at for row in due.values())[:limit]
        process.claims += map(RunClaim, claims)
        process.lease_ids |= {claimed.lease_id for claimed in claims}

    def record_replies(
        self, process: RunProcess, claims: Sequence[RunClaim], outcomes: Sequence[Outcome], flags: set[str]
    ) -> None:
        """Record attempts in one commit. They are late for deliveries that were taken from the run."""
        records, expected = [], {}
        written_late = set()
        for claim, outcome in zip(claims, outcomes, strict=False):
            if not claim.is_intended and outcome not in WITHOUT_DOT:
                outcome = Outcome.DEFERRED
            if outcome == Outcome.SENT or (outcome == Outcome.UNKNOWN and "arrived" in flags):
                self.arrivals[claim.claimed.id] += 1
            record = queue_steps.make_attempt(claim.claimed, outcome, now=self.now)
            if outcome == Outcome.UNKNOWN and "hold" in flags:
                record = record._replace(next_try_at=None)
            if outcome == Outcome.FAILED and "bad" in flags:
                record = record._replace(bad_address=True)
                self.bad.add(claim.claimed.client_id)
            records.append(record)
            process.claims.remove(claim)
            row = self.rows[claim.claimed.id]
            if row.is_claimed_as(claim, process):
                expected[row.id] = record.state
            elif row.id not in expected:
                expected[row.id] = row.state
            if outcome == Outcome.OUTBOX and not row.is_claimed_as(claim, process):
                written_late.add(row.id)
        for delivery_id in written_late:
            if expected[delivery_id] in (S.QUEUED, S.CLAIMED, S.DEFERRED, S.UNKNOWN):
                expected[delivery_id] = S.OUTBOX

        queue_steps.record_attempts(self.store, process.run_id, *records, folds="fold" in flags)

        self.check_states(expected)
        for record in records:
            assert record.outcome in self.rows[record.claimed.id].outcomes

    def rescue_run(self, process: RunProcess, *, waits_for_person: bool) -> None:
        """Rescue a run's deliveries. It has crashed, or only seems dead and goes on with the claims it had."""
        before = self.rows

        queue_steps.rescue(self.store, process.run_id, self.now, None if waits_for_person else 15 * MINUTE)

        own_rows = [row for row in before.values() if row.is_in_flight and row.run_id == process.run_id]
        self.check_states({row.id: S.UNKNOWN if row.state == S.SENDING else row.stored_state for row in own_rows})
        assert [self.rows[row.id].outcomes[len(row.log) :] for row in own_rows] == [
            [Outcome.UNKNOWN] if row.state == S.SENDING else [] for row in own_rows
        ]
        for row in before.values():
            assert row in own_rows or self.rows[row.id].state == row.state

    def check_states(self, expected: dict[int, DeliveryState]) -> None:
        """Check that these deliveries have the expected states, or need no further try."""
        self.refresh()
        for delivery_id, state in expected.items():
            row = self.rows[delivery_id]
            if state != S.SENDING and Outcome.SENT in row.outcomes:
                state = S.SENT
            elif self.is_gone(row) and row.state == S.CANCELLED:
                continue
            assert row.state == state

    def is_gone(self, row: DeliveryRow) -> bool:
        """Return whether nothing more may be sent to the client of a delivery."""
        return row.client_id not in self.clients or row.client_id in self.bad | self.suppressed

    def disable(self, mailing_id: int) -> None:
        write(self.store, lambda db: holds.disable_mailing(db, mailing_id, "why", self.now))
        self.disabled.add(mailing_id)
        self.refresh()

    def enable(self, mailing_id: int) -> None:
        self.disabled.remove(mailing_id)
        queue_steps.update_row(self.store, Mailing, mailing_id, disabled_at=None)

    def disable_and_enable(self, occurrence_id: int) -> None:
        """Disable a mailing, and enable it at once."""
        (mailing_id,) = [row.mailing_id for row in self.occurrences if row.id == occurrence_id]
        if mailing_id in self.mailings:
            self.disable(mailing_id)
            self.enable(mailing_id)

    def give_back(self, process: RunProcess, claims: Sequence[RunClaim]) -> None:
        """Put back deliveries whose final dot was not written, and never will be."""
        rows = [row for claim in claims if (row := self.rows[claim.claimed.id]).is_claimed_as(claim, process)]

        queue_steps.give_back(self.store, *(claim.claimed for claim in claims))

        self.check_states({row.id: row.stored_state for row in rows})
        process.claims = [claim for claim in process.claims if claim not in claims]

    def may_send(self, row: DeliveryRow) -> bool:
        """Return whether a delivery may be sent now if it is leased."""
        (occurrence,) = [occurrence for occurrence in self.occurrences if occurrence.id == row.occurrence_id]
        return self.is_open(occurrence) and row.is_in_flight

    def record_intents(self, process: RunProcess, claims: Sequence[RunClaim]) -> None:
        self.refresh()
        valid = [claim for claim in claims if self.rows[claim.claimed.id].is_claimed_as(claim, process)]

        claimed = [claim.claimed for claim in claims]
        ours = queue_steps.intended_claims(self.store, process.run_id, *claimed, now=self.now)

        assert ours == {claim.claimed.key for claim in valid if self.may_send(self.rows[claim.claimed.id])}
        for claim in claims:
            if claim.claimed.key in ours:
                claim.is_intended = True
            elif not claim.is_intended:
                process.claims.remove(claim)

    def close_leases(self, process: RunProcess) -> None:
        """Close the leases that have no more claims, as a run does."""
        held = {claim.claimed.lease_id for claim in process.claims}
        write(self.store, lambda db: queue.close_leases(db, process.run_id, sorted(process.lease_ids - held)))
        process.lease_ids &= held
        self.refresh()

    def end_process(self, process: RunProcess) -> None:
        """End a run: it records a success for what it is sending, and releases the rest."""
        sending = [claim.claimed for claim in process.claims if claim.is_intended]
        self.arrivals.update(claimed.id for claimed in sending)
        records = [queue_steps.make_attempt(claimed, Outcome.SENT, now=self.now) for claimed in sending]
        queue_steps.record_attempts(self.store, process.run_id, *records)
        queue_steps.close_leases(self.store, process.run_id)
        write(self.store, lambda db: runs.end(db, process.run_id, self.now))
        process.claims, process.is_alive = [], False
        self.refresh()
        assert not [row for row in self.rows.values() if row.is_in_flight and row.run_id == process.run_id]


def is_sqlite(store: Store) -> bool:
    return store.dialect == SQLITE


@pytest.fixture(autouse=True)
def _ledger(store: Store, ada: Actor) -> Iterator[None]:
    """Give the machine a store with one user. Each example removes what the one before it has left."""
    store.close()
    if is_sqlite(store):
        event.listen(store.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    Ledger.store, Ledger.owner, Ledger.new_rows = store, ada, save_rows(store)
    connection = store.engine.raw_connection()
    Ledger.reader = connection.driver_connection
    connection.detach()
    if not is_sqlite(store):
        Ledger.reader.autocommit = True
    yield
    connection.close()


def run_machine(examples: int, steps: int) -> None:
    run_settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Ledger, settings=run_settings)


@pytest.mark.timeout(900)  # Hypothesis shortens a failing example
@pytest.mark.parametrize("examples", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_ledger_with_steps_in_random_order(examples: int) -> None:
    run_machine(examples, steps=25)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_ledger_with_steps_in_random_order_for_long() -> None:
    run_machine(examples=5_000, steps=80)
