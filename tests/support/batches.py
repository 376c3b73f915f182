"""Stop a change that is made in batches between two of them, as a kill does."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def stopped_after_batches(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[None]:
    """Raise KeyboardInterrupt in the block after a number of batches were committed."""
    pauses = 0

    def stop(_seconds: float) -> None:
        nonlocal pauses
        pauses += 1
        if pauses == number:
            raise KeyboardInterrupt

    with monkeypatch.context() as patches:
        patches.setattr("skychimp.store.database.time.sleep", stop)
        yield
