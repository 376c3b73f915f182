"""Sign what is sent, if `dkim` is set: whatever transport there is gets emails that have a DKIM signature.

An email is signed as late as possible, so that the key files are read where a password's file is: when a connection is
opened. RSA takes some 0.3 ms, so it runs in threads while the envelope is sent. The connection waits for it only when
it comes to the body.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from skychimp.config.settings import DkimSettings, Settings
from skychimp.delivery.composing import dkim
from skychimp.delivery.composing.dkim import DkimKey, UnfinishedSignature
from skychimp.errors import ConfigError, InvalidValue, RelayRefused
from skychimp.translation import tr
from skychimp.transport import make_transport
from skychimp.transport.interfaces import Connection, EmailSource, OutgoingEmail, SendResult, Signature, Transport


def make_signing_transport(settings: Settings, store: Path) -> Transport:
    """Return the transport in the settings, which signs emails if `dkim` is set."""
    transport = make_transport(settings, store)
    return SigningTransport(transport, settings.dkim) if settings.dkim.is_set else transport


def load_keys(settings: DkimSettings) -> list[DkimKey]:
    """Return the keys in the settings, none if `dkim` is not set. Raises ConfigError."""
    keys = []
    for selector, path, pem in settings.read_keys():
        try:
            keys.append(_load_key(pem, settings.domain or "", selector))
        except InvalidValue as error:
            raise ConfigError(
                tr("cannot use {path}: {message}", path=path, message=error.message), error.hint
            ) from None
    return keys


_load_key = lru_cache(maxsize=8)(dkim.load_key)  # checking an RSA key takes some milliseconds


class SigningTransport:
    """Signs the emails of another transport."""

    def __init__(self, transport: Transport, settings: DkimSettings) -> None:
        self._transport = transport
        self._settings = settings
        self._threads = ThreadPoolExecutor(os.cpu_count(), "dkim")

    @property
    def relay(self) -> str:
        return self._transport.relay

    async def connect(self) -> "SigningConnection":
        """Read the keys and open a connection. Raises RelayRefused if a key file cannot be used, as well."""
        try:
            keys = load_keys(self._settings)
        except ConfigError as error:
            raise RelayRefused(error.message, error.hint) from None
        return SigningConnection(await self._transport.connect(), keys, self._threads)


class SigningConnection:
    """Signs the emails of another connection."""

    def __init__(self, connection: Connection, keys: Sequence[DkimKey], threads: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._keys = keys
        self._threads = threads
        self._uses_threads = any(key.is_rsa for key in keys)

    @property
    def is_usable(self) -> bool:
        return self._connection.is_usable

    @property
    def mail_limit(self) -> int | None:
        return self._connection.mail_limit

    async def send(self, email: OutgoingEmail, source: EmailSource) -> None:
        """Sign and send an email, and the following ones that the source has in time."""
        await self._connection.send(self.sign(email), _SigningSource(source, self.sign))

    async def close(self) -> None:
        await self._connection.close()

    def sign(self, email: OutgoingEmail) -> OutgoingEmail:
        """Return the email with its signature, or with one that is being made."""
        unfinished = dkim.start_signing(email.data, self._keys, now=int(time.time()), tail=email.tail)
        size, loop = sum(each.size for each in unfinished), asyncio.get_running_loop()
        if self._uses_threads:
            made = loop.run_in_executor(self._threads, _finish, unfinished)
        else:
            made = loop.create_future()
            made.set_result(_finish(unfinished))
        return email._replace(signature=Signature(size, made))


def _finish(unfinished: Sequence[UnfinishedSignature]) -> bytes:
    return b"".join(each.finish() for each in unfinished)


class _SigningSource:
    """Signs the emails of another source."""

    def __init__(self, source: EmailSource, sign: Callable[[OutgoingEmail], OutgoingEmail]) -> None:
        self.commit_intent = source.commit_intent
        self.finish: Callable[[SendResult], None] = source.finish
        self._take_next = source.take_next
        self._sign = sign

    def take_next(self) -> OutgoingEmail | None:
        email = self._take_next()
        return None if email is None else self._sign(email)
