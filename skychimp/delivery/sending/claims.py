"""Claim deliveries for one run, and hand them out in turns over the open occurrences.

The next delivery comes from the occurrence with the fewest emails in flight. So a mailing with slow recipients does not
hold up the others. Within a mailing, slow domains get half of the connections while other recipients wait. A claim is
about as large as what is sent in half a second, so that a run stops quickly.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection

from skychimp.delivery.sending.occurrence_emails import OccurrenceEmails
from skychimp.delivery.sending.pacing.slow_domains import SlowDomains
from skychimp.delivery.sending.recorder import Recorder
from skychimp.store import queue
from skychimp.store.database import BATCH_PAUSE_S
from skychimp.store.ledger import ResultCounts
from skychimp.store.occurrences import opening
from skychimp.store.queue import ClaimedDelivery

MIN_CLAIM_SIZE, MAX_CLAIM_SIZE = 20, 500  # deliveries
MAX_PUT_OFF = 1_000  # deliveries to slow domains, for each occurrence
MAX_ACTIVE_OCCURRENCES = 64  # further ones have their turn when one of these has sent what it has claimed


@dataclass(eq=False)
class OpenOccurrence:
    """An occurrence that this run sends. `emails` is loaded with its first claim."""

    id: int
    is_opening: bool = True
    in_flight: int = 0
    emails: OccurrenceEmails | None = None
    ready: deque[ClaimedDelivery] = field(default_factory=deque)
    put_off: deque[ClaimedDelivery] = field(default_factory=deque)
    """Deliveries to slow domains that wait for their turn."""
    is_claiming: bool = False
    is_exhausted: bool = False
    is_discarded: bool = False
    had_its_turn: bool = False
    """It has claimed since it became active. It claims no more while others wait for their turn."""
    was_refreshed: bool = False
    """More deliveries may have been added since the last claim began."""
    claim_size: int = MIN_CLAIM_SIZE
    claimed_at: float = 0.0
    last_turn: int = 0

    @property
    def is_finished(self) -> bool:
        return self.is_exhausted and not (self.ready or self.put_off or self.is_claiming or self.is_opening)


class Claims:
    """The deliveries of one run.

    `tasks` runs the claims. `due_by` returns the time up to which a delivery is due. `count` returns the results of an
    occurrence so far, without keeping others from writing. `load` reads what is needed to compose its emails.
    `connections` returns how many emails can be in flight. `limit` is how many deliveries may be handed out in all
    (None: no limit). `require_consent` leaves out clients without a recorded consent when an occurrence opens.
    """

    def __init__(
        self,
        recorder: Recorder,
        run_id: int,
        tasks: asyncio.TaskGroup,
        *,
        now: Callable[[], datetime],
        due_by: Callable[[], datetime],
        count: Callable[[int], Awaitable[ResultCounts]],
        load: Callable[[Connection, int, ResultCounts], OccurrenceEmails | None],
        connections: Callable[[], int],
        slow_domains: SlowDomains,
        limit: int | None = None,
        require_consent: bool = False,
    ) -> None:
        self._recorder = recorder
        self._run_id = run_id
        self._tasks = tasks
        self._now = now
        self._due_by = due_by
        self._count = count
        self._load = load
        self._connections = connections
        self._slow_domains = slow_domains
        self._slow_in_flight: set[int] = set()
        self._remaining = limit
        self._require_consent = require_consent
        self._occurrences: dict[int, OpenOccurrence] = {}
        self._active: list[OpenOccurrence] = []
        self._waiting: deque[OpenOccurrence] = deque()
        self._opening: deque[OpenOccurrence] = deque()
        self._changed = asyncio.Event()
        self._turn = 0
        self._leased: Counter[int] = Counter()
        self._is_stopped = False

    def add(self, occurrence_ids: Iterable[int]) -> None:
        """Add occurrences to send. Refresh those already known."""
        is_creating = bool(self._opening)
        for occurrence_id in occurrence_ids:
            occurrence = self._occurrences.get(occurrence_id)
            if occurrence is None:
                occurrence = self._occurrences[occurrence_id] = OpenOccurrence(occurrence_id)
                self._opening.append(occurrence)
                self._waiting.append(occurrence)
            else:
                self.refresh(occurrence)
        if self._opening and not is_creating:
            self._tasks.create_task(self._create_all_deliveries())
        self._activate_waiting()

    def refresh(self, occurrence: OpenOccurrence) -> None:
        """Look for more deliveries of an occurrence, because some were given back, became due or were created."""
        occurrence.is_exhausted, occurrence.is_discarded, occurrence.was_refreshed = False, False, True
        if occurrence not in self._active and occurrence not in self._waiting:
            self._waiting.append(occurrence)
        self._activate_waiting()
        self._claim_if_low(occurrence)

    async def next(self) -> tuple[ClaimedDelivery, OpenOccurrence] | None:
        """Return the next delivery to send, or None if none is left. It counts as in flight from now on."""
        while not self._is_done:
            occurrence = self._choose()
            if occurrence is not None:
                return self._take(occurrence)
            if not self._active:
                return None
            self._changed.clear()
            await self._changed.wait()
        return None

    def take_another(self, occurrence: OpenOccurrence) -> tuple[ClaimedDelivery, OpenOccurrence] | None:
        """Return the next delivery if it is one of this occurrence, and enough are left for the other connections.

        It has to wait for the server's reply to the one before it.
        """
        is_enough = len(occurrence.ready) > self._connections()
        return self._take(occurrence) if is_enough and not self._is_done and self._choose() is occurrence else None

    def finish(self, claimed: ClaimedDelivery, occurrence: OpenOccurrence) -> None:
        """Note that a delivery is no longer in flight, after its result was handed to the recorder."""
        self._land(claimed, occurrence)
        self._note_done(claimed)
        if not occurrence.in_flight:
            self._forget_if_finished(occurrence)

    def return_untried(self, claimed: ClaimedDelivery, occurrence: OpenOccurrence) -> None:
        """Put an untried delivery back at the front of its queue, unless its occurrence was discarded."""
        self._land(claimed, occurrence)
        self._count_handed_out(-1)
        occurrence.ready.appendleft(claimed)
        if occurrence.is_discarded:
            self._give_back(occurrence)
            return
        if occurrence not in self._active and occurrence not in self._waiting:  # this was its last delivery
            self._waiting.appendleft(occurrence)
            self._activate_waiting()
        self._changed.set()

    def reclaim(self, claimed: ClaimedDelivery, occurrence: OpenOccurrence) -> None:
        """Give back a delivery that may not be sent, with all that are ready, and claim again."""
        self._land(claimed, occurrence)
        self._count_handed_out(-1)
        occurrence.ready.append(claimed)
        self._give_back(occurrence)
        self.refresh(occurrence)

    def discard(self, occurrence: OpenOccurrence) -> None:
        """Send no more of this occurrence, because its mailing was disabled."""
        self._give_back(occurrence)
        occurrence.is_exhausted = occurrence.is_discarded = True
        self._deactivate_if_finished(occurrence)

    def discard_all(self) -> None:
        """Send no more of any occurrence added so far."""
        self._waiting.clear()
        for occurrence in list(self._occurrences.values()):
            self.discard(occurrence)

    def stop(self) -> None:
        """Hand out no more deliveries."""
        self._is_stopped = True
        self._changed.set()

    @property
    def has_work(self) -> bool:
        """Return whether `next` has a delivery, or may have one soon."""
        return bool(self._active) and not self._is_done

    async def _create_all_deliveries(self) -> None:
        """Create the deliveries of each occurrence that is being opened. Those already created are sent meanwhile."""
        while self._opening:
            occurrence = self._opening[0]
            is_complete = self._is_done or await self._create_deliveries(occurrence) or self._is_done
            self._opening.rotate(-1)  # one batch each in turn, so that a small mailing need not wait for a large one
            if is_complete:
                self._opening.remove(occurrence)
                occurrence.is_opening = False
            if occurrence.is_discarded:
                self._deactivate_if_finished(occurrence)
            else:
                self.refresh(occurrence)
            if not is_complete:  # a large batch: let others write
                await asyncio.sleep(BATCH_PAUSE_S)

    def _create_deliveries(self, occurrence: OpenOccurrence) -> "asyncio.Future[bool]":
        require_consent = self._require_consent
        return self._recorder.submit(
            lambda db: opening.create_deliveries(db, occurrence.id, require_consent=require_consent)
        )

    @property
    def _is_done(self) -> bool:
        return self._is_stopped or self._remaining == 0

    def _choose(self) -> OpenOccurrence | None:
        """Return the occurrence with the fewest emails in flight, or None if no delivery may be handed out now.

        While other occurrences have none ready yet, each gets only its share of the connections.
        """
        if self._slow_domains.were_found:
            for occurrence in list(self._active):
                self._put_off_slow(occurrence)
        if len(self._active) == 1:
            return self._active[0] if self._active[0].ready else None
        ready = [occurrence for occurrence in self._active if occurrence.ready]
        chosen = min(ready, key=lambda occurrence: (occurrence.in_flight, occurrence.last_turn), default=None)
        if chosen is not None and len(ready) < len(self._active):
            share = max(1, self._connections() // len(self._active))
            return chosen if chosen.in_flight < share else None
        return chosen

    def _put_off_slow(self, occurrence: OpenOccurrence) -> None:
        """Put off deliveries to slow domains while such ones have half of the connections, until no others are left."""
        ready, put_off = occurrence.ready, occurrence.put_off
        is_their_turn = len(self._slow_in_flight) < max(1, self._connections() // 2)
        while ready and not is_their_turn and len(put_off) < MAX_PUT_OFF and self._slow_domains.has(ready[0].address):
            put_off.append(ready.popleft())
        self._claim_if_low(occurrence)
        if put_off and (is_their_turn or (occurrence.is_exhausted and not ready)):
            ready.appendleft(put_off.popleft())

    def _take(self, occurrence: OpenOccurrence) -> tuple[ClaimedDelivery, OpenOccurrence]:
        self._turn += 1
        occurrence.last_turn = self._turn
        occurrence.in_flight += 1
        self._count_handed_out(1)
        claimed = occurrence.ready.popleft()
        if self._slow_domains.were_found and self._slow_domains.has(claimed.address):
            self._slow_in_flight.add(claimed.id)
        self._claim_if_low(occurrence)
        if not occurrence.ready:
            self._deactivate_if_finished(occurrence)
        return claimed, occurrence

    def _land(self, claimed: ClaimedDelivery, occurrence: OpenOccurrence) -> None:
        """Note that a delivery is no longer in flight."""
        occurrence.in_flight -= 1
        if claimed.id in self._slow_in_flight:
            self._slow_in_flight.remove(claimed.id)
            self._changed.set()

    def _give_back(self, occurrence: OpenOccurrence) -> None:
        """Return what is ready to the queue."""
        claims = [*occurrence.ready, *occurrence.put_off]
        occurrence.ready.clear()
        occurrence.put_off.clear()
        if claims:
            self._recorder.submit(lambda db: queue.give_back(db, claims), is_quick=True)
        for claimed in claims:
            self._note_done(claimed)

    def _note_done(self, claimed: ClaimedDelivery) -> None:
        """Close a lease when this was its last delivery."""
        lease_id = claimed.lease_id
        self._leased[lease_id] -= 1
        if not self._leased[lease_id]:
            del self._leased[lease_id]
            self._recorder.submit(lambda db: queue.close_leases(db, self._run_id, [lease_id]), is_quick=True)

    def _count_handed_out(self, number: int) -> None:
        if self._remaining is not None:
            self._remaining -= number

    def _activate_waiting(self) -> None:
        while self._waiting and len(self._active) < MAX_ACTIVE_OCCURRENCES:
            occurrence = self._waiting.popleft()
            occurrence.had_its_turn = False
            self._active.append(occurrence)
            self._claim_if_low(occurrence)

    def _deactivate_if_finished(self, occurrence: OpenOccurrence) -> None:
        """Remove an occurrence without further deliveries, and wake the workers that wait for a change."""
        if occurrence.is_finished and occurrence in self._active:
            self._active.remove(occurrence)
            self._activate_waiting()
            self._forget_if_finished(occurrence)
        self._changed.set()

    def _forget_if_finished(self, occurrence: OpenOccurrence) -> None:
        if occurrence.is_finished and occurrence.in_flight == 0 and occurrence not in self._waiting:
            self._occurrences.pop(occurrence.id, None)

    def _claim_if_low(self, occurrence: OpenOccurrence) -> None:
        is_low = len(occurrence.ready) < occurrence.claim_size // 2 or not occurrence.ready
        if not is_low or occurrence not in self._active or occurrence.is_claiming or occurrence.is_exhausted:
            return
        if not (self._waiting and occurrence.had_its_turn):
            occurrence.is_claiming = True
            self._tasks.create_task(self._claim(occurrence))
        elif not occurrence.ready:
            self._active.remove(occurrence)
            self._waiting.append(occurrence)
            self._activate_waiting()

    async def _claim(self, occurrence: OpenOccurrence) -> None:
        size = 0 if self._is_stopped else self._next_claim_size(occurrence)
        claimed: list[ClaimedDelivery] = []
        if size:
            occurrence.was_refreshed = False
            was_stopped = occurrence.emails is not None and occurrence.emails.is_stopped
            claimed = await self._claim_batch(occurrence, size)
            if claimed and was_stopped and occurrence.emails is not None:  # it was enabled again
                occurrence.emails.is_held = occurrence.emails.is_disabled = False
        self._leased.update(delivery.lease_id for delivery in claimed)
        occurrence.ready.extend(claimed)
        occurrence.is_claiming, occurrence.had_its_turn = False, True
        occurrence.is_exhausted = size == 0 or (len(claimed) < size and not occurrence.was_refreshed)
        if occurrence.is_discarded:
            self._give_back(occurrence)
            occurrence.is_exhausted = True
        self._claim_if_low(occurrence)
        self._deactivate_if_finished(occurrence)

    async def _claim_batch(self, occurrence: OpenOccurrence, size: int) -> list[ClaimedDelivery]:
        def lease(db: Connection) -> list[ClaimedDelivery]:
            return queue.lease(db, occurrence.id, self._run_id, self._now(), self._due_by(), size)

        if occurrence.emails is not None:
            return await self._recorder.submit(lease, is_quick=True)
        counts = await self._count(occurrence.id)

        def load_and_lease(db: Connection) -> list[ClaimedDelivery]:
            occurrence.emails = self._load(db, occurrence.id, counts)
            return lease(db)

        return await self._recorder.submit(load_and_lease)

    def _next_claim_size(self, occurrence: OpenOccurrence) -> int:
        """Return how many to claim: twice as many if the last claim was used up quickly, half if slowly.

        With a limit, no more than may still be handed out, so that other runs can claim the rest.
        """
        now = time.monotonic()
        elapsed_s, occurrence.claimed_at = now - occurrence.claimed_at, now
        if elapsed_s < 0.25:
            occurrence.claim_size = min(2 * occurrence.claim_size, MAX_CLAIM_SIZE)
        elif elapsed_s > 1:
            occurrence.claim_size = max(occurrence.claim_size // 2, MIN_CLAIM_SIZE)
        if self._remaining is None:
            return occurrence.claim_size
        ready = sum(len(each.ready) + len(each.put_off) for each in self._occurrences.values())
        return min(occurrence.claim_size, max(self._remaining - ready, 0))
