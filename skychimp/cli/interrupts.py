"""Handle Ctrl-C while a command is being imported.

An interrupt during an import can be swallowed by the import system, or leave a half-imported module. Nothing is at risk
yet at that time, so the process just ends.
"""

import os
import signal
from types import FrameType

STATUS = 130


def exit_on_interrupt() -> None:
    """Let Ctrl-C end the process at once, until `raise_on_interrupt`. An ignored Ctrl-C stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def raise_on_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, now that a command has work to clean up."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(_number: int, _frame: FrameType | None) -> None:
    os._exit(STATUS)
