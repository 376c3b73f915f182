"""Test when the daemon reads incoming mail again after an error."""

import threading
from types import SimpleNamespace

import pytest

from skychimp.errors import RelayUnavailable
from skychimp.services.inbound import polling
from skychimp.translation import verbatim

HOUR_S = 3600.0
UNAVAILABLE = RelayUnavailable(verbatim("cannot read the mailbox"), verbatim("check inbound.imap_url"))


class FakeTime(threading.Event):
    """A clock, and the event that ends the reading after so many waits."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self.now_s = 0.0
        self.waits: list[float] = []
        self._most = waits

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        if len(self.waits) == self._most:
            self.set()
        return self.is_set()


DURATIONS = {
    "never worked": ([0.0] * 8, [5, 10, 20, 40, 80, 160, 300, 300]),
    "worked for an hour each time": ([HOUR_S] * 3, [5, 5, 5]),
    "worked again after two errors": ([0.0, 0.0, HOUR_S, 0.0], [5, 10, 5, 10]),
}


@pytest.mark.parametrize("name", DURATIONS)
def test_pause_after_an_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    durations, waits = DURATIONS[name]
    fake, left = FakeTime(len(durations)), iter(durations)
    monkeypatch.setattr(polling, "time", SimpleNamespace(monotonic=lambda: fake.now_s))

    def read(stopping: threading.Event) -> None:
        fake.now_s += next(left)
        raise UNAVAILABLE

    polling._keep_reading(read, fake)

    assert fake.waits == waits
