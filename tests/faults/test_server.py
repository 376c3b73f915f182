"""Every way a server can fail us (the design's section 5), judged by the ledger after a whole run.

Wherever something is left, the same letters go through a healthy server afterwards: nothing is lost, nothing comes twice.
"""

import os
import random
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from sending import (
    addresses,
    attempts,
    bad_clients,
    deliveries,
    disabled,
    log,
    mailing,
    paused,
    send,
    sent_to,
    settings,
    states,
    status,
)
from servers import (
    EHLO,
    GREETING,
    GROUP,
    SENT,
    CountingReceiver,
    ScriptedServer,
    Step,
    deafen,
    dribble,
    hang,
    hear,
    hear_body,
    hear_group,
    obey,
    tls,
)

from skychimp.access import Actor
from skychimp.models import DeliveryState, Every, MailingStatus, Message, Occurrence, OccurrenceState
from skychimp.services import clients
from skychimp.store.engine import Store

BOB = ["bob@example.org"]
A_DAY = timedelta(days=1)
LATER = timedelta(hours=5)  # after every wait, before every deadline
OPENED = (GREETING, hear, EHLO)
HEALTHY = (GREETING, obey())
STARTTLS = b"250-test\r\n250-PIPELINING\r\n250 STARTTLS\r\n"
AUTH = b"250-test\r\n250-PIPELINING\r\n250 AUTH PLAIN\r\n"
LOGIN = {"smtp__username": "ada", "smtp__password": "sesame"}


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[CountingReceiver]:
    """A healthy server that knows what arrived."""
    with CountingReceiver(tmp_path / "arrived") as running:
        yield running


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def the_rest_goes(store: Store, receiver: CountingReceiver, **more: Any) -> None:
    """What a fault has left goes through a healthy server: each letter once, and the mailing is complete."""
    left = [d.address for d in deliveries(store) if d.state in (DeliveryState.QUEUED, DeliveryState.DEFERRED)]
    tally = send(store, settings(receiver.port, **more), later=LATER)
    assert (tally.stopped, tally.sent) == ("", len(left))
    assert Counter(address for address, _ in receiver.arrived().elements()) == Counter(left)
    assert {mailing.state for mailing in occurrences(store)} == {OccurrenceState.FINISHED}


def occurrences(store: Store) -> list[Occurrence]:
    from sending import rows

    return rows(store, Occurrence)
