"""Which delivery comes next: claims in turns over the open occurrences.

The next letter is one of the occurrence with the fewest letters on the wire, so that a mailing whose recipients are all
slow keeps no other from going on. Claims are as large as what is sent in about half a second, so that a stop is quick.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from skychimp.delivery.sending.recorder import Recorder
from skychimp.store import queue
from skychimp.store.queue import ClaimedDelivery

FEWEST, MOST = 20, 500  # deliveries a claim
MOST_AT_ONCE = 64  # occurrences that take turns; further ones wait for the end of one of them


@dataclass(eq=False)
class OpenOccurrence:
    """An occurrence that this run sends; `letters` is what its dispatcher needs to know to send them."""

    id: int
    is_opening: bool = True
    on_the_wire: int = 0
    letters: Any = None
    ready: deque[ClaimedDelivery] = field(default_factory=deque)
    is_claiming: bool = False
    is_exhausted: bool = False
    is_dropped: bool = False
    has_news: bool = False
    """More may have come since the last claim was asked for."""
    claim_size: int = FEWEST
    claimed_at: float = 0.0
    turn: int = 0

    @property
    def is_over(self) -> bool:
        return self.is_exhausted and not (self.ready or self.is_claiming or self.is_opening)


class Claims:
    """The deliveries of one run, from the ledger to the wire.

    `tasks` runs the claims, `due` says up to when a try is due, `load` reads what an occurrence's letters need.
    `connections` is how many letters can be on the wire, `budget` how many may be given out in all; None is no limit.
    """

    def __init__(
        self,
        recorder: Recorder,
        run_id: int,
        tasks: asyncio.TaskGroup,
        *,
        now: Callable[[], datetime],
        due: Callable[[], datetime],
        load: Callable[[Connection, int], Any],
        connections: Callable[[], int],
        budget: int | None = None,
    ) -> None:
        self._recorder = recorder
        self._run_id = run_id
        self._tasks = tasks
        self._now = now
        self._due = due
        self._load = load
        self._connections = connections
        self._budget = budget
        self._known: dict[int, OpenOccurrence] = {}
        self._active: list[OpenOccurrence] = []
        self._waiting: deque[OpenOccurrence] = deque()
        self._opening: deque[OpenOccurrence] = deque()
        self._changed = asyncio.Event()
        self._turn = 0
        self._token = 0
        self._is_stopped = False

    def add(self, occurrence_ids: Iterable[int]) -> None:
        """Send these, too; one that is known already is looked at again."""
        is_filling = bool(self._opening)
        for occurrence_id in occurrence_ids:
            known = self._known.get(occurrence_id)
            if known is None:
                known = self._known[occurrence_id] = OpenOccurrence(occurrence_id)
                self._opening.append(known)
                self._waiting.append(known)
            else:
                self.recheck(known)
        if self._opening and not is_filling:
            self._tasks.create_task(self._fill_all())
        self._move_up()

    def recheck(self, occurrence: OpenOccurrence) -> None:
        """There may be more of this one: a delivery was given back, is due again, or was made just now."""
        occurrence.is_exhausted, occurrence.is_dropped, occurrence.has_news = False, False, True
        if occurrence not in self._active and occurrence not in self._waiting:
            self._waiting.append(occurrence)
        self._move_up()
        self._claim_if_low(occurrence)

    async def next(self) -> tuple[ClaimedDelivery, OpenOccurrence] | None:
        """The next delivery to send, now on the wire; None once there is nothing more."""
        while not self._is_enough:
            chosen = self._chosen()
            if chosen is not None:
                self._turn += 1
                chosen.turn = self._turn
                chosen.on_the_wire += 1
                self._spend(1)
                claimed = chosen.ready.popleft()
                self._claim_if_low(chosen)
                self._leave(chosen)
                return claimed, chosen
            if not self._active:
                return None
            self._changed.clear()
            await self._changed.wait()
        return None

    def off_the_wire(self, occurrence: OpenOccurrence) -> None:
        """A letter has had its answer."""
        occurrence.on_the_wire -= 1
        self._forget(occurrence)

    def put_back(self, claimed: ClaimedDelivery, occurrence: OpenOccurrence) -> None:
        """One that nothing was done about; it comes first, unless its occurrence was dropped meanwhile."""
        occurrence.on_the_wire -= 1
        self._spend(-1)
        if occurrence.is_dropped:
            return
        occurrence.ready.appendleft(claimed)
        if occurrence not in self._active and occurrence not in self._waiting:  # it was the last one
            self._waiting.appendleft(occurrence)
            self._move_up()
        self._changed.set()

    def start_over(self, occurrence: OpenOccurrence) -> None:
        """A claim is not ours any more, and others may not be either: give back what is ready, and claim anew."""
        ids = [claimed.id for claimed in occurrence.ready]
        occurrence.ready.clear()
        if ids:
            self._recorder.submit(lambda db: queue.release(db, self._run_id, ids, only_claimed=True))
        self.recheck(occurrence)

    def drop(self, occurrence: OpenOccurrence) -> None:
        """Send no more of this one: its mailing is disabled."""
        occurrence.ready.clear()
        occurrence.is_exhausted = occurrence.is_dropped = True
        self._leave(occurrence)

    def drop_all(self) -> None:
        """Send nothing of what was added so far."""
        for occurrence in [*self._active, *self._waiting]:
            self.drop(occurrence)
        self._waiting.clear()

    def stop(self) -> None:
        """Give out nothing more."""
        self._is_stopped = True
        self._changed.set()

    @property
    def has_work(self) -> bool:
        """Whether `next` has, or soon may have, something."""
        return bool(self._active) and not self._is_enough

    async def _fill_all(self) -> None:
        """Make the deliveries of each occurrence that is being opened; the first batch is sent meanwhile."""
        while self._opening:
            occurrence = self._opening[0]
            is_whole = self._is_enough or await self._fill(occurrence) or self._is_enough
            self._opening.rotate(-1)  # the next batch is another's, so that a small one need not wait for a large one
            if is_whole:
                self._opening.remove(occurrence)
                occurrence.is_opening = False
            self.recheck(occurrence)

    def _fill(self, occurrence: OpenOccurrence) -> "asyncio.Future[bool]":
        return self._recorder.submit(lambda db: queue.fill(db, occurrence.id))

    @property
    def _is_enough(self) -> bool:
        return self._is_stopped or self._budget == 0

    def _chosen(self) -> OpenOccurrence | None:
        """The one with the fewest letters on the wire; while others have none ready yet, within its share of it."""
        if len(self._active) == 1:
            return self._active[0] if self._active[0].ready else None
        ready = [occurrence for occurrence in self._active if occurrence.ready]
        chosen = min(ready, key=lambda occurrence: (occurrence.on_the_wire, occurrence.turn), default=None)
        if chosen is not None and len(ready) < len(self._active):
            share = max(1, self._connections() // len(self._active))
            return chosen if chosen.on_the_wire < share else None
        return chosen

    def _spend(self, number: int) -> None:
        if self._budget is not None:
            self._budget -= number

    def _move_up(self) -> None:
        while self._waiting and len(self._active) < MOST_AT_ONCE:
            occurrence = self._waiting.popleft()
            self._active.append(occurrence)
            self._claim_if_low(occurrence)

    def _leave(self, occurrence: OpenOccurrence) -> None:
        """Let go of one that has nothing more to give out, and wake whoever waits for something."""
        if occurrence.is_over and occurrence in self._active:
            self._active.remove(occurrence)
            self._move_up()
            self._forget(occurrence)
        self._changed.set()

    def _forget(self, occurrence: OpenOccurrence) -> None:
        if occurrence.is_over and occurrence.on_the_wire == 0 and occurrence not in self._waiting:
            self._known.pop(occurrence.id, None)

    def _claim_if_low(self, occurrence: OpenOccurrence) -> None:
        is_low = len(occurrence.ready) < occurrence.claim_size // 2 or not occurrence.ready
        if is_low and occurrence in self._active and not (occurrence.is_claiming or occurrence.is_exhausted):
            occurrence.is_claiming = True
            self._tasks.create_task(self._claim(occurrence))

    async def _claim(self, occurrence: OpenOccurrence) -> None:
        size = 0 if self._is_stopped else self._size(occurrence)
        claimed: list[ClaimedDelivery] = []
        if size:
            self._token += 1
            token, occurrence.has_news = self._token, False
            claimed = await self._recorder.submit(lambda c: self._take(c, occurrence, token, size))
        occurrence.ready.extend(claimed)
        occurrence.is_claiming = False
        occurrence.is_exhausted = size == 0 or (len(claimed) < size and not occurrence.has_news)
        self._claim_if_low(occurrence)
        self._leave(occurrence)

    def _take(self, db: Connection, occurrence: OpenOccurrence, token: int, size: int) -> list[ClaimedDelivery]:
        if occurrence.letters is None:
            occurrence.letters = self._load(db, occurrence.id)
        return queue.claim(db, occurrence.id, self._run_id, token, self._now(), self._due(), size)

    def _size(self, occurrence: OpenOccurrence) -> int:
        now = time.monotonic()
        elapsed, occurrence.claimed_at = now - occurrence.claimed_at, now
        if elapsed < 0.25:
            occurrence.claim_size = min(2 * occurrence.claim_size, MOST)
        elif elapsed > 1:
            occurrence.claim_size = max(occurrence.claim_size // 2, FEWEST)
        return occurrence.claim_size if self._budget is None else min(occurrence.claim_size, self._budget)
