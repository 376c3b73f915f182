"""The whole life of many deliveries, in any order that Hypothesis can think of, with what must hold after each step.

Runs claim, announce and record over the real ledger; they crash, are taken for dead while they go on, and hear late.
Mailings and clients come and go, and time passes. The model beside it knows what each run has in hand, which letters
have arrived, and who belongs to an audience. In the end all that waits goes out, and it is over.
"""

import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import enrol
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

from skychimp.models import DeliveryState, Every, Mailing, MailingStatus, OccurrenceState, Outcome
from skychimp.permissions import Actor
from skychimp.services.operations import integrity
from skychimp.store import database, queue, runs
from skychimp.store.database import Store
from skychimp.store.queue import ClaimedDelivery
from skychimp.store.schema import create_store

S = DeliveryState
BATCH = 3
MOST_CLIENTS, MOST_MAILINGS, MOST_RUNS = 6, 8, 3
STEPS = ["claim"] * 3 + ["intend"] * 3 + ["reply"] * 3 + ["release", "take for dead", "stop and go", "delete", "wait"]
SAID = [*Outcome, Outcome.DEFERRED, Outcome.UNKNOWN, Outcome.GIVEN_BACK]
BEFORE_THE_DOT = (Outcome.DEFERRED, Outcome.FAILED, Outcome.GIVEN_BACK)

place = st.integers(0, 11)
"""One of those that there are, counted round."""


class Move(NamedTuple):
    """What a run does next with some of its letters; where it has none, it claims some.

    `more` says of an unknown one that it has arrived, or that a person is to decide; of a failed one that its address
    is bad; of intents that they are written at once.
    """

    who: int
    step: str
    what: int
    chosen: set[int]
    said: list[Outcome]
    more: set[str]


moves = st.builds(
    Move,
    place,
    st.sampled_from(STEPS),
    place,
    st.sets(place, min_size=1, max_size=3),
    st.lists(st.sampled_from(SAID), min_size=3, max_size=3),
    st.sets(st.sampled_from(["arrived", "hold", "bad", "at once"])),
)
waits = st.sampled_from([timedelta(), MINUTE, *[5 * MINUTE, 15 * MINUTE] * 5, DAY, 3 * DAY])


@dataclass
class Hand:
    """A letter that a run has claimed, and whether it was told that it may write the dot."""

    claimed: ClaimedDelivery
    is_intended: bool = False


@dataclass
class Process:
    """A run and what it has in hand. One that has crashed has nothing, and does nothing more."""

    run_id: int
    hands: list[Hand] = field(default_factory=list)
    is_alive: bool = True


@dataclass
class Row:
    """A delivery as it stands in the ledger, with number and outcome of its attempts."""

    id: int
    occurrence_id: int
    client_id: int
    state: DeliveryState
    attempts: int
    next_try_at: str | None
    run_id: int | None
    token: int | None
    log: list[tuple[int, Outcome]] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        """Whether there is to be another try."""
        resend = self.state == S.UNKNOWN and self.next_try_at is not None
        return resend or self.state in (S.QUEUED, S.DEFERRED)

    @property
    def is_held(self) -> bool:
        return self.state in (S.CLAIMED, S.SENDING)

    @property
    def outcomes(self) -> list[Outcome]:
        return [outcome for _, outcome in self.log]

    def is_in(self, hand: Hand, process: Process) -> bool:
        """Whether the ledger says so, too."""
        return self.is_held and (self.run_id, self.id, self.token) == (
            process.run_id,
            hand.claimed.id,
            hand.claimed.token,
        )


@dataclass
class Opened:
    """An occurrence as it stands in the ledger."""

    id: int
    mailing_id: int
    state: OccurrenceState
    deadline: str

    @property
    def is_unfinished(self) -> bool:
        return self.state in (OccurrenceState.OPENING, OccurrenceState.OPEN)


class Ledger(RuleBasedStateMachine):
    template: Path
    owner: Actor

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        path = self.folder / "skychimp.db"
        shutil.copy(self.template, path)
        self.store = Store(path)
        event.listen(self.store.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
        self.eyes = database._driver().connect(path)
        self.now = NOW
        self.processes: list[Process] = []
        self.clients: set[int] = set()
        self.bad: set[int] = set()
        self.mailings: list[int] = []
        self.disabled: set[int] = set()
        self.audiences: dict[int, set[int]] = defaultdict(set)
        self.cursors: dict[int, int] = defaultdict(int)
        self.whole: set[int] = set()
        self.arrivals: Counter[int] = Counter()
        self.sent: set[int] = set()
        self.settled: set[int] = set()
        self.names = 0
        self.fates = 4  # so often something is deleted or disabled, after which less goes on
        self.look()

    def teardown(self) -> None:
        try:
            if sys.exc_info()[1] is None:
                self.come_to_an_end()
        finally:
            self.eyes.close()
            self.store.close()
            shutil.rmtree(self.folder)

    def look(self) -> None:
        """See what the ledger says now."""
        columns = "id, occurrence_id, client_id, state, attempts, next_try_at, run_id, token"
        found = self.eyes.execute(f"SELECT {columns} FROM delivery").fetchall()
        self.rows = {row[0]: Row(row[0], row[1], row[2], S(row[3]), row[4], row[5], row[6], row[7]) for row in found}
        for delivery_id, number, outcome in self.eyes.execute("SELECT delivery_id, number, outcome FROM attempt"):
            self.rows[delivery_id].log.append((number, Outcome(outcome)))
        found = self.eyes.execute("SELECT id, mailing_id, state, deadline FROM occurrence").fetchall()
        self.occurrences = [Opened(row[0], row[1], OccurrenceState(row[2]), row[3]) for row in found]
        found = self.eyes.execute("SELECT id, status, next_at FROM mailing").fetchall()
        self.schedules = [(row[0], MailingStatus(row[1]), row[2]) for row in found]

    @property
    def living(self) -> list[Process]:
        return [process for process in self.processes if process.is_alive]

    # Setting up

    @initialize(
        number=st.integers(2, MOST_CLIENTS), every=st.sampled_from([Every.ONCE, Every.DAY]), batches=st.integers(0, 2)
    )
    def begin(self, number: int, every: Every, batches: int) -> None:
        """Somebody's mailing is due, and two runs are about to send it."""
        for _ in range(number):
            self.add_client()
        self.add_mailing(every)
        for _ in range(batches):
            self.fill_one(self.occurrences[0])
        for _ in range(2):
            self.start_run()

    @precondition(lambda self: self.names < MOST_CLIENTS)
    @rule()
    def add_client(self) -> None:
        self.names += 1
        self.clients.add(queue_steps.client(self.store, self.owner, f"c{self.names}"))

    @precondition(lambda self: len(self.schedules) < MOST_MAILINGS)
    @rule(every=st.sampled_from([Every.ONCE, Every.DAY]))
    def add_mailing(self, every: Every) -> None:
        end_at = self.now + 2 * DAY + MINUTE if every == Every.DAY else None
        made = queue_steps.mailing(
            self.store, self.owner, every=every, start=self.now, end_at=end_at, created_at=self.now
        )
        self.mailings.append(made)
        self.open(place=-1)

    @precondition(lambda self: len(self.living) < MOST_RUNS)
    @rule()
    def start_run(self) -> None:
        self.processes.append(Process(queue_steps.run(self.store)))

    @rule(place=place)
    def open(self, place: int) -> None:
        queue_steps.open_due(self.store, self.now)
        self.look()
        self.fill_one(self.occurrences[place % len(self.occurrences)])

    # Sending

    @precondition(lambda self: self.living and self.occurrences)
    @rule(moves=st.lists(moves, min_size=2, max_size=8))
    def work(self, moves: list[Move]) -> None:
        """Runs do what runs do, each move with several letters at once."""
        for move in moves:
            self.make(move)
            self.all_is_as_it_must_be()

    work_on = work_more = work_again = work  # as often as all that happens around it

    @precondition(lambda self: self.living)
    @rule(who=place)
    def end_run(self, who: int) -> None:
        process = self.living[who % len(self.living)]
        self.end(process)
        self.processes.remove(process)

    @precondition(lambda self: self.living)
    @rule(who=place, arrived=st.integers(0, 15))
    def crash(self, who: int, arrived: int) -> None:
        """Its letters may have arrived or not, and nobody will say."""
        process = self.living[who % len(self.living)]
        for number, hand in enumerate(process.hands):
            if hand.is_intended and arrived >> number & 1:
                self.arrivals[hand.claimed.id] += 1
        process.hands, process.is_alive = [], False

    @precondition(lambda self: len(self.living) < len(self.processes))
    @rule(is_held=st.booleans())
    def rescue(self, is_held: bool) -> None:
        """Somebody looks, and finds those that have crashed."""
        for process in [process for process in self.processes if not process.is_alive]:
            self.rescue_from(process, is_held=is_held)
            self.processes.remove(process)

    # People, and time

    @precondition(lambda self: self.mailings and (self.disabled or self.fates > 0))
    @rule(place=place)
    def disable_or_enable(self, place: int) -> None:
        mailing_id = self.mailings[place % len(self.mailings)]
        self.fates -= mailing_id not in self.disabled
        if mailing_id in self.disabled:
            self.enable(mailing_id)
            return
        self.disable(mailing_id)

    @precondition(lambda self: len(self.mailings) > 1 and self.fates > 0)
    @rule(place=place)
    def delete_mailing(self, place: int) -> None:
        self.fates -= 1
        queue_steps.delete_mailing(self.store, self.mailings.pop(place % len(self.mailings)), self.now)

    @precondition(lambda self: self.clients and self.fates > 0)
    @rule(place=place)
    def delete_client(self, place: int) -> None:
        self.fates -= 1
        client_id = sorted(self.clients)[place % len(self.clients)]
        sending = [row for row in self.rows.values() if row.state == S.SENDING]
        queue_steps.delete_client(self.store, client_id)
        self.clients.remove(client_id)
        self.look()
        assert all(self.rows[row.id] == row for row in sending)

    @rule(wait=waits)
    def sweep(self, wait: timedelta) -> None:
        """Time passes, and somebody looks: what has nothing more to wait for is over."""
        before = self.rows
        self.now += wait
        queue_steps.sweep(self.store, self.now)

        self.look()
        for row in before.values():
            if row.state in (S.UNKNOWN, S.SENDING):
                assert self.rows[row.id].state in (row.state, S.QUEUED, S.CANCELLED), "it does not expire"
        waiting = {row.occurrence_id for row in self.rows.values() if row.waits or row.is_held}
        for occurrence in self.occurrences:
            assert occurrence.state != OccurrenceState.OPEN or occurrence.id in waiting
        unfinished = {occurrence.mailing_id for occurrence in self.occurrences if occurrence.is_unfinished}
        for mailing_id, status, next_at in self.schedules:
            assert status != MailingStatus.RUNNING or next_at or mailing_id in unfinished

    @rule(resolved=st.sampled_from([S.SENT, S.FAILED, S.QUEUED]))
    def resolve(self, resolved: DeliveryState) -> None:
        """A person decides about all that are unknown, of mailings that are still there."""
        theirs = {occurrence.id for occurrence in self.occurrences if occurrence.mailing_id in self.mailings}
        ids = [row.id for row in self.rows.values() if row.state == S.UNKNOWN and row.occurrence_id in theirs]
        if resolved == S.QUEUED:
            write(self.store, lambda db: queue.resend(db, ids, self.now, self.now + DAY))
        else:
            write(self.store, lambda db: queue.resolve_as(db, ids, resolved))
            self.settled.update(ids)

    # What always holds

    @invariant()
    def all_is_as_it_must_be(self) -> None:
        self.look()
        unfinished = {occurrence.id: occurrence for occurrence in self.occurrences if occurrence.is_unfinished}
        for row in self.rows.values():
            assert [number for number, _ in row.log] == list(range(1, row.attempts + 1))
            self.check_sent(row)
            self.check_client(row)
            if row.waits or row.is_held:
                assert row.occurrence_id in unfinished, "what is over has nothing that waits"
        self.check_hands()
        self.check_audiences()
        busy = {occurrence.mailing_id for occurrence in unfinished.values()}
        for mailing_id, status, next_at in self.schedules:
            assert status != MailingStatus.COMPLETED or (next_at is None and mailing_id not in busy)

    def check_sent(self, row: Row) -> None:
        """The promise: what is sent has arrived and stays sent, and nothing arrives twice but what was once unknown."""
        assert row.state == S.SENT or row.id not in self.sent
        if row.state == S.SENT:
            self.sent.add(row.id)
            assert self.arrivals[row.id] >= 1 or row.id in self.settled
        if Outcome.SENT in row.outcomes:
            assert row.state in (S.SENT, S.SENDING)
        assert self.arrivals[row.id] <= 1 + row.outcomes.count(Outcome.UNKNOWN)

    def check_client(self, row: Row) -> None:
        """Nothing waits for one who is gone, or whose address is bad."""
        if row.client_id not in self.clients or row.client_id in self.bad:
            assert not row.waits
            assert row.state != S.CLAIMED

    def check_hands(self) -> None:
        """What is held is in the hands of one run, or was in those of one that has crashed."""
        crashed = {process.run_id for process in self.processes if not process.is_alive}
        for row in self.rows.values():
            if row.is_held and row.run_id not in crashed:
                (hand,) = [hand for process in self.living for hand in process.hands if row.is_in(hand, process)]
                assert hand.is_intended == (row.state == S.SENDING)

    def check_audiences(self) -> None:
        """Who belonged to the audience at their turn has one delivery, nobody else has one, and all had their turn."""
        for occurrence in self.occurrences:
            if occurrence.state in (OccurrenceState.OPEN, OccurrenceState.FINISHED):
                assert occurrence.id in self.whole
        found: dict[int, list[int]] = defaultdict(list)
        for row in self.rows.values():
            found[row.occurrence_id].append(row.client_id)
        assert {which: sorted(ids) for which, ids in found.items()} == {
            which: sorted(ids) for which, ids in self.audiences.items() if ids
        }

    def come_to_an_end(self) -> None:
        """Nothing stands in the way any more: whatever has happened, all that waits goes out, and it is over."""
        assert list(integrity.check(self.store)) == []
        for process in self.living:
            self.end(process)
        for process in self.processes:
            queue_steps.rescue(self.store, process.run_id, self.now)
        self.processes = [Process(queue_steps.run(self.store))]
        for mailing_id in list(self.disabled):
            self.enable(mailing_id)
        queue_steps.sweep(self.store, self.now)
        for _ in range(2):
            self.look()
            for occurrence in self.occurrences:
                while occurrence.state == OccurrenceState.OPENING:
                    self.fill_one(occurrence)
                    self.look()
                    (occurrence,) = [now for now in self.occurrences if now.id == occurrence.id]
                self.claim_for(self.processes[0], occurrence, 100)
            self.intend_for(self.processes[0], list(self.processes[0].hands))
            self.end(self.processes[0])
            self.now += 15 * MINUTE
            queue_steps.sweep(self.store, self.now)

        self.all_is_as_it_must_be()
        assert not [row for row in self.rows.values() if row.waits or row.is_held]
        assert not [occurrence for occurrence in self.occurrences if occurrence.is_unfinished]

    # Steps

    def make(self, move: Move) -> None:
        busy = [process for process in self.living if process.hands]
        who = busy if busy and move.step != "claim" else self.living
        process = who[move.who % len(who)]
        number = len(process.hands) or 1
        chosen = {place % number for place in move.chosen}
        hands = [hand for place, hand in enumerate(process.hands) if place in chosen]
        if move.step == "wait":
            self.sweep(15 * MINUTE)
        elif move.step == "claim" or not hands:
            with_work = [occurrence for occurrence in self.occurrences if self.due(occurrence)] or self.occurrences
            self.claim_for(process, with_work[move.what % len(with_work)], limit=1 + move.what % 4)
        elif move.step == "intend":
            self.intend_for(process, hands, at_once="at once" in move.more)
        elif move.step == "reply":
            self.reply_to(process, hands, move.said, move.more)
        elif move.step == "release":
            self.release_of(process, hands)
        elif move.step == "take for dead":
            self.rescue_from(process, is_held="hold" in move.more)
        elif move.step == "stop and go":
            self.stop_and_go(self.rows[hands[0].claimed.id].occurrence_id)
        elif self.fates > 0 and hands[0].claimed.client_id in self.clients:
            self.delete_client(sorted(self.clients).index(hands[0].claimed.client_id))

    def fill_one(self, occurrence: Opened) -> None:
        is_there = occurrence.mailing_id in self.mailings
        if occurrence.state == OccurrenceState.OPENING and is_there:
            coming = sorted(client_id for client_id in self.clients if client_id > self.cursors[occurrence.id])[:BATCH]
            self.audiences[occurrence.id].update(set(coming) - self.bad)
            self.cursors[occurrence.id] = max(coming, default=self.cursors[occurrence.id])
            if len(coming) < BATCH:
                self.whole.add(occurrence.id)

        is_whole = write(self.store, lambda db: queue.fill(db, occurrence.id, BATCH))

        self.look()
        (now,) = [now for now in self.occurrences if now.id == occurrence.id]
        assert is_whole == (now.state != OccurrenceState.OPENING or not is_there)

    def due(self, occurrence: Opened) -> list[Row]:
        """What may be claimed of an occurrence now, in order."""
        now = self.now.replace(tzinfo=None).isoformat(" ", "microseconds")
        going = occurrence.mailing_id in self.mailings and occurrence.mailing_id not in self.disabled
        if not (going and occurrence.is_unfinished and occurrence.deadline > now):
            return []
        mine = [row for row in self.rows.values() if row.occurrence_id == occurrence.id]
        found = [row for row in mine if row.state in (S.QUEUED, S.DEFERRED) and str(row.next_try_at) <= now]
        return sorted(found, key=lambda row: (row.next_try_at, row.id))

    def claim_for(self, process: Process, occurrence: Opened, limit: int) -> None:
        expected = self.due(occurrence)[:limit]

        claims = queue_steps.claim(self.store, process.run_id, now=self.now, limit=limit, occurrence_id=occurrence.id)

        assert sorted((claimed.id, claimed.attempts) for claimed in claims) == sorted(
            (row.id, row.attempts) for row in expected
        )
        process.hands += map(Hand, claims)

    def reply_to(self, process: Process, hands: Sequence[Hand], said: Sequence[Outcome], more: set[str]) -> None:
        """What came of some letters, in one commit; late, where the deliveries are not this run's any more."""
        entries, expected = [], {}
        for hand, outcome in zip(hands, said, strict=False):
            if not hand.is_intended and outcome not in BEFORE_THE_DOT:
                outcome = Outcome.DEFERRED
            if outcome == Outcome.SENT or (outcome == Outcome.UNKNOWN and "arrived" in more):
                self.arrivals[hand.claimed.id] += 1
            entry = queue_steps.entry(hand.claimed, outcome, now=self.now)
            if outcome == Outcome.UNKNOWN and "hold" in more:
                entry = entry._replace(next_try_at=None)
            if outcome == Outcome.FAILED and "bad" in more:
                entry = entry._replace(bad_address=True)
                self.bad.add(hand.claimed.client_id)
            entries.append(entry)
            process.hands.remove(hand)
            row = self.rows[hand.claimed.id]
            if row.is_in(hand, process):
                expected[row.id] = entry.state
            elif row.id not in expected:
                expected[row.id] = row.state

        if all(entry.outcome == Outcome.SENT for entry in entries):
            queue_steps.write_at_once(self.store, process.run_id, entries)
        else:
            queue_steps.record(self.store, process.run_id, *entries)

        self.check_states(expected)
        for entry in entries:
            assert entry.outcome in self.rows[entry.claimed.id].outcomes

    def rescue_from(self, process: Process, *, is_held: bool) -> None:
        """A run is taken for dead: rightly, or it only slept, and goes on with what it thinks is in its hands."""
        before = self.rows

        queue_steps.rescue(self.store, process.run_id, self.now, None if is_held else 15 * MINUTE)

        mine = [row for row in before.values() if row.is_held and row.run_id == process.run_id]
        self.check_states({row.id: S.UNKNOWN if row.state == S.SENDING else S.QUEUED for row in mine})
        assert [self.rows[row.id].outcomes[len(row.log) :] for row in mine] == [
            [Outcome.UNKNOWN] if row.state == S.SENDING else [] for row in mine
        ]
        for row in before.values():
            assert row in mine or self.rows[row.id] == row

    def check_states(self, expected: dict[int, DeliveryState]) -> None:
        """These are in the states that were expected, but for those that need no further try."""
        self.look()
        for delivery_id, state in expected.items():
            row = self.rows[delivery_id]
            is_gone = row.client_id not in self.clients or row.client_id in self.bad
            if state != S.SENDING and Outcome.SENT in row.outcomes:
                state = S.SENT
            elif is_gone and row.state == S.CANCELLED:
                continue
            assert row.state == state

    def disable(self, mailing_id: int) -> None:
        write(self.store, lambda db: queue.disable(db, mailing_id, "why", self.now))
        self.disabled.add(mailing_id)
        self.look()
        mine = {occurrence.id for occurrence in self.occurrences if occurrence.mailing_id == mailing_id}
        assert not [row for row in self.rows.values() if row.occurrence_id in mine and row.state == S.CLAIMED]

    def enable(self, mailing_id: int) -> None:
        self.disabled.remove(mailing_id)
        queue_steps.change(self.store, Mailing, mailing_id, disabled_at=None)

    def stop_and_go(self, occurrence_id: int) -> None:
        """Somebody disables a mailing, and thinks better of it."""
        (mailing_id,) = [found.mailing_id for found in self.occurrences if found.id == occurrence_id]
        if mailing_id in self.mailings:
            self.disable(mailing_id)
            self.enable(mailing_id)

    def release_of(self, process: Process, hands: Sequence[Hand]) -> None:
        """Their dots were not written, and never will be."""
        ids = {hand.claimed.id for hand in hands}
        held = [which for which in ids if self.rows[which].is_held and self.rows[which].run_id == process.run_id]

        queue_steps.release(self.store, process.run_id, *(hand.claimed for hand in hands))

        self.check_states(dict.fromkeys(held, S.QUEUED))
        process.hands = [hand for hand in process.hands if hand.claimed.id not in ids]

    def intend_for(self, process: Process, hands: Sequence[Hand], *, at_once: bool = True) -> None:
        self.look()
        valid = [hand for hand in hands if self.rows[hand.claimed.id].is_in(hand, process)]
        often = Counter(hand.claimed.id for hand in hands)

        claims = [hand.claimed for hand in hands]
        if at_once:
            ours = queue_steps.write_at_once(self.store, process.run_id, intents=claims)
        else:
            ours = queue_steps.intend(self.store, process.run_id, *claims)

        assert ours == {hand.claimed.id for hand in valid if often[hand.claimed.id] == 1}
        for hand in hands:
            if hand.claimed.id in ours:
                hand.is_intended = True
            else:
                process.hands.remove(hand)

    def end(self, process: Process) -> None:
        """A run ends: of what it is sending it hears, what it has not sent it gives back."""
        sending = [hand.claimed for hand in process.hands if hand.is_intended]
        self.arrivals.update(claimed.id for claimed in sending)
        queue_steps.record(
            self.store, process.run_id, *(queue_steps.entry(claimed, Outcome.SENT, now=self.now) for claimed in sending)
        )
        queue_steps.release(self.store, process.run_id)
        write(self.store, lambda db: runs.end(db, process.run_id, self.now))
        process.hands, process.is_alive = [], False
        self.look()
        assert not [row for row in self.rows.values() if row.is_held and row.run_id == process.run_id]


@pytest.fixture(scope="module", autouse=True)
def template(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A store with one user, which every example begins with a copy of."""
    store = create_store(f"sqlite:///{tmp_path_factory.mktemp('template') / 'skychimp.db'}")
    Ledger.owner = enrol(store, "ada")
    store.close()
    Ledger.template = store.path


def explore(examples: int, steps: int) -> None:
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Ledger, settings=chosen)


@pytest.mark.timeout(900)  # to find the shortest way to what it has found
def test_the_ledger_in_any_order() -> None:
    explore(examples=100, steps=25)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_the_ledger_in_any_order_for_long() -> None:
    explore(examples=5_000, steps=80)
