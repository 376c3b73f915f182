"""An event loop whose time is simulated, and in which processes can be killed and suspended.

Time passes only when nothing is ready. Whatever a process starts carries the process in its context, so a dead one
never runs again, and a suspended one goes on later with what it missed.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from functools import partial
from random import Random
from typing import Any

CURRENT: ContextVar["SimulatedProcess | None"] = ContextVar("CURRENT", default=None)


class KilledError(BaseException):
    """Raised in a process at the point where it is killed."""


class SimulatedProcess:
    """What belongs to one process. Its callbacks run unless it is dead or suspended."""

    def __init__(self) -> None:
        self.is_dead = False
        self.is_suspended = False
        self._missed: list[tuple[Callable[[], object], Context]] = []

    def resume(self, loop: asyncio.AbstractEventLoop) -> None:
        """Continue a suspended process."""
        self.is_suspended = False
        missed, self._missed = self._missed, []
        for callback, context in missed:
            loop.call_soon(callback, context=context)

    def run(self, callback: Callable[..., object], *args: Any) -> None:
        """Run a callback now, later or never."""
        if self.is_suspended:
            self._missed.append((partial(callback, *args), copy_context()))
        elif not self.is_dead:
            callback(*args)


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop with its own time. `connect` opens a simulated connection for a protocol."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.connect: Callable[[asyncio.Protocol], asyncio.Transport]
        self._random = random
        self._now = 1000.0
        self._selector = self
        self.set_exception_handler(_raise_defect)

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[object]:
        """Let time pass, as nothing is ready."""
        if timeout is None:
            raise AssertionError("everything waits, and nothing will ever happen")
        self._now += timeout
        return []

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        return super().call_soon(_guarded, callback, *args, context=context)

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        return super().call_at(when, _guarded, callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Run a function some time later, and return its result still later: a process can be killed in between."""
        future = self.create_future()

        def run() -> None:
            try:
                result = func(*args)
            except Exception as error:
                self.call_later(self._delay(), _set, future.set_exception, error, future)
            else:
                self.call_later(self._delay(), _set, future.set_result, result, future)

        self.call_later(self._delay(), run)
        return future

    async def create_connection(self, protocol_factory: Any, *_: Any, **__: Any) -> Any:
        await asyncio.sleep(self._delay())
        protocol = protocol_factory()
        return self.connect(protocol), protocol

    def _delay(self) -> float:
        return self._random.choice((0.0, 0.001, 0.01, 0.2))

    def _process_events(self, event_list: object) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def _guarded(callback: Callable[..., object], *args: Any) -> None:
    process = CURRENT.get()
    if process is None:
        callback(*args)
    else:
        process.run(callback, *args)


def _set(setter: Callable[[Any], None], value: Any, future: "asyncio.Future[Any]") -> None:
    if not future.done():
        setter(value)


def _raise_defect(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, KilledError) or "was destroyed" in context["message"]:
        return
    raise error or AssertionError(context["message"])
