"""Process the new mail of a Maildir. Nothing is deleted: what was processed moves from "new" to "cur"."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from skychimp import files
from skychimp.config.settings import InboundSettings
from skychimp.delivery.inbound.mime_parts import MAX_SIZE
from skychimp.errors import ConfigError
from skychimp.return_rates import DEFAULT_LIMITS, Limits
from skychimp.services.inbound import processing
from skychimp.services.inbound.processing import IGNORED, ReceivedMail, Result, Summary
from skychimp.store.database import Store
from skychimp.translation import tr

BATCH = 200
"""Emails in one transaction. Sending waits while it lasts, which is about 20 ms."""
BATCH_SIZE = 16_000_000
"""Bytes of emails that are in memory at once."""

_SEEN, _UNSEEN = ":2,S", ":2,"


def process_new(
    store: Store,
    settings: InboundSettings,
    folder: Path,
    may_continue: Callable[[], bool] = lambda: True,
    limits: Limits = DEFAULT_LIMITS,
) -> Summary:
    """Process the new mail of a Maildir, and return how much of it was what. Calls `may_continue` after each batch.

    `limits` say for which rates a mailing is held.

    What was processed is marked as seen. What is none of ours is not, so that a person sees it. If this is killed after
    a transaction, the same mail is processed again, and counts once. Raises ConfigError, and StoreFailed.
    """
    total = Summary()
    try:
        with files.open_folder(folder / "new") as new, files.open_folder(folder / "cur") as cur:
            names = iter(sorted(name for name in os.listdir(new) if not name.startswith(".")))
            while batch := _read_batch(names, new):
                processed = processing.process(store, settings, list(batch.values()), limits)
                for name, result in zip(batch, processed.results, strict=True):
                    _keep(name, result, new, cur)
                total += processed.summary
                if not may_continue():
                    break
    except files.UnsafePlace as error:
        raise ConfigError(
            tr("cannot use the Maildir {folder}: {reason}", folder=folder, reason=error.reason(folder)), error.remedy
        ) from None
    except OSError as error:
        hint = tr("set inbound.maildir to a Maildir that you may change")
        raise ConfigError(
            tr("cannot use the Maildir {folder}: {strerror}", folder=folder, strerror=error.strerror), hint
        ) from None
    return total


def _read_batch(names: Iterator[str], new: int) -> dict[str, ReceivedMail]:
    """Return the next emails by the names of their files."""
    batch, size = dict[str, ReceivedMail](), 0
    for name, mail in _read_files(names, new):
        batch[name] = mail
        size += len(mail.data)
        if len(batch) == BATCH or size >= BATCH_SIZE:
            break
    return batch


def _read_files(names: Iterator[str], new: int) -> Iterator[tuple[str, ReceivedMail]]:
    """Yield the emails of files. What is gone by now, or is no regular file, is left out. Raises PermissionError."""
    for name in names:
        try:
            descriptor = files.open_file(name, dir_fd=new)
        except PermissionError:
            raise
        except OSError:
            continue
        with open(descriptor, "rb") as file:
            yield name, ReceivedMail(file.read(MAX_SIZE))


def _keep(name: str, result: Result, new: int, cur: int) -> None:
    kept = name.partition(":")[0] + (_UNSEEN if result in IGNORED else _SEEN)
    with suppress(FileNotFoundError):  # another process was faster
        os.rename(name, kept, src_dir_fd=new, dst_dir_fd=cur)
