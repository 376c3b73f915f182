"""Do work in several threads that begin together."""

import threading
from collections.abc import Callable


def run_in_threads(number: int, work: Callable[[int], None]) -> None:
    """Call `work` with each thread's index in threads that begin together, each with its own connection."""
    start = threading.Barrier(number)

    def begin(index: int) -> None:
        start.wait()
        work(index)

    threads = [threading.Thread(target=begin, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
