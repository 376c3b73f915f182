"""Send one email outside of a mailing, over a connection of its own."""

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from skychimp.config.settings import Settings
from skychimp.delivery.sending.event_loop import run_in_event_loop
from skychimp.delivery.sending.signing import make_signing_transport
from skychimp.errors import RelayError, RelayRefused, RelayUnavailable, StoreFailed
from skychimp.store.database import Store
from skychimp.store.limits import rate
from skychimp.translation import tr
from skychimp.transport.interfaces import OutgoingEmail, Reply, SendResult, Transport


class SingleEmailResult(NamedTuple):
    """The mail server that an email was sent through, and its final reply.

    `reply` is None if the final reply was lost, so that the email may or may not have arrived.
    """

    relay: str
    reply: Reply | None


def send_single_email(settings: Settings, store: Store, email: OutgoingEmail) -> SingleEmailResult:
    """Send an email now and return the final reply. It counts in `smtp.rate`, but does not wait for it.

    The outbox is next to the store. Raises RelayUnavailable and RelayRefused if the email was certainly not delivered.
    """
    transport = make_signing_transport(settings, store.path)
    result = run_in_event_loop(_send(transport, email))
    _count(settings, store)
    if (error := error_for(result)) is not None:
        raise error
    return SingleEmailResult(transport.relay, result.reply)


def _count(settings: Settings, store: Store) -> None:
    """Count an email in the rate. It is sent already, so it does not matter much if that fails."""
    if settings.smtp.rate:
        with suppress(StoreFailed), store.write_soon() as db:
            rate.count_one(db.connection(), settings.smtp.rate, store.now())


def error_for(result: SendResult) -> RelayError | None:
    """Return the error for a send result, or None if the email was sent or may have been sent."""
    if result.reply is None:
        if result.dot_written:
            return None
        return RelayUnavailable(tr("the email was not sent: {error}", error=result.error), tr('run "skychimp doctor"'))
    if result.reply.code < 300:
        return None
    text = result.reply.text.replace("\n", " ")
    if result.reply.code < 500:
        return RelayUnavailable(
            tr("the mail server did not accept the email: {reply}", reply=text), tr("try again later")
        )
    return RelayRefused(tr("the mail server refused the email: {reply}", reply=text))


class _SingleEmail:
    """The source of one email, which has no intent to commit."""

    result: SendResult

    def commit_intent(self, answer: Callable[[bool], None]) -> None:
        answer(True)

    def take_next(self) -> None:
        return None

    def finish(self, result: SendResult) -> None:
        self.result = result


async def _send(transport: Transport, email: OutgoingEmail) -> SendResult:
    source = _SingleEmail()
    connection = await transport.connect()
    try:
        await connection.send(email, source)
    finally:
        await connection.close()
    return source.result
