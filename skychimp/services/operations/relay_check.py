"""Check the mail server as an email would meet it: address, connection, TLS, login, sender. Nothing is sent."""

import asyncio
import socket
from collections.abc import Iterator, Mapping
from datetime import timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import func
from sqlmodel import col, select

from skychimp import addresses
from skychimp.config.settings import Settings, SmtpSettings
from skychimp.config.types import Security
from skychimp.delivery.sending.refusals.faults import classify
from skychimp.delivery.sending.refusals.remedies import without_doctor
from skychimp.delivery.sending.runner import with_sender
from skychimp.errors import RelayUnavailable, SkychimpError
from skychimp.models import Message
from skychimp.services.operations.findings import OK, PROBLEM, RELAY, WARNING, Finding
from skychimp.shell import run_hint
from skychimp.store import relay_pauses
from skychimp.store.database import Store
from skychimp.store.sql import byte_length
from skychimp.translation import Phrase, tr
from skychimp.transport.interfaces import OutgoingEmail, Phase, SendResult

if TYPE_CHECKING:
    from skychimp.transport.smtp import SmtpTransport

LONGEST_WAIT = timedelta(seconds=15)
"""How long to wait for one reply of the mail server."""

LONGEST_CHECK = timedelta(seconds=60)
"""How long to wait for all replies together."""

ENCODING_OVERHEAD = 1.4
"""How much larger than its text an email is at most, without its header."""

_SET_LOGIN = tr("set smtp.username and smtp.password_file")


class _Answers(NamedTuple):
    """The extensions that a mail server offers, and its refusal of an email from the sender to the sender, if any."""

    offers: Mapping[str, str]
    refusal: SendResult | None


def check_relay(settings: Settings, store: Store | None) -> Iterator[Finding]:
    """Yield findings about the mail server in the settings."""
    from skychimp.transport.smtp import SmtpTransport

    smtp = settings.smtp
    try:
        resolved = socket.getaddrinfo(smtp.host, smtp.effective_port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        remedy = tr("correct smtp.host, or check this machine's name server")
        yield Finding(RELAY, PROBLEM, tr("cannot find the host {host} in DNS", host=smtp.host), remedy)
        return
    transport = SmtpTransport(smtp.model_copy(update={"timeout": min(smtp.timeout, LONGEST_WAIT)}))
    email = _email_to_sender(settings)
    try:
        answers = asyncio.run(_ask(transport, email))
    except SkychimpError as error:
        yield Finding(RELAY, PROBLEM, error.message, error.hint)
        return
    is_local = all(_is_loopback(str(address[4][0])) for address in resolved)
    yield _connection(transport.relay, smtp, email, answers, is_local=is_local)
    if email is not None and answers.refusal is not None:
        yield _refusal(transport.relay, smtp, email, answers.refusal, answers.offers)
    if not (is_local or _is_final(answers.refusal)) and answers.offers.get("AUTH") and smtp.username is None:
        remedy = tr("{set_login}, unless the server takes mail from this machine without a login", set_login=_SET_LOGIN)
        yield Finding(
            RELAY, WARNING, tr("AUTH is offered by {relay}, but no login is set", relay=transport.relay), remedy
        )
    if store is not None:
        yield from _known_limits(store, answers.offers)


def _email_to_sender(settings: Settings) -> OutgoingEmail | None:
    """Return an email from the sender to the sender, None if no sender is set. Only its envelope is used."""
    if settings.mail.sender is None:
        return None
    address = addresses.parse_sender(settings.mail.sender)[1]
    return OutgoingEmail(with_sender(settings).mail.return_path or address, address, b"\r\n")


async def _ask(transport: "SmtpTransport", email: OutgoingEmail | None) -> _Answers:
    """Connect, log in, and ask whether the mail server takes an email. Raises RelayUnavailable and RelayRefused."""
    try:
        async with asyncio.timeout(LONGEST_CHECK.total_seconds()):
            connection = await transport.connect()
            try:
                refusal = None if email is None else await connection.try_envelope(email)
                return _Answers(dict(connection.protocol.capabilities), refusal)
            finally:
                await connection.close()
    except TimeoutError:
        message = tr(
            "{relay} is very slow: the check took more than {seconds:g} s",
            relay=transport.relay,
            seconds=LONGEST_CHECK.total_seconds(),
        )
        raise RelayUnavailable(message, tr("ask the mail server's administrator")) from None


def _connection(
    relay: str, smtp: SmtpSettings, email: OutgoingEmail | None, answers: _Answers, *, is_local: bool
) -> Finding:
    """Return what works, and a warning if it is not encrypted."""
    mode = tr("security: {security}", security=smtp.security)
    if smtp.username:
        mode = tr("security: {security}, logged in as {username}", security=smtp.security, username=smtp.username)
    values = {"relay": relay, "mode": mode, "names": ", ".join(sorted(answers.offers)) or tr("none")}
    if email is None or answers.refusal is not None:
        found = tr("{relay} accepts connections ({mode}); extensions: {names}", **values)
    else:
        found = tr("{relay} accepts mail from {sender} ({mode}); extensions: {names}", sender=email.sender, **values)
    if smtp.security == Security.NONE and not is_local:
        return Finding(
            RELAY,
            WARNING,
            tr("{found}: the connection is not encrypted", found=found),
            tr('set smtp.security = "starttls"'),
        )
    return Finding(RELAY, OK, found)


def _refusal(
    relay: str, smtp: SmtpSettings, email: OutgoingEmail, refusal: SendResult, offers: Mapping[str, str]
) -> Finding:
    """Return the finding about a refused sender. A temporary refusal is a warning: emails are tried again."""
    command = f"MAIL FROM:<{email.sender}>" if refusal.phase == Phase.MAIL else f"RCPT TO:<{email.recipient}>"
    if refusal.reply is None:
        remedy = tr('run "skychimp doctor" again, or ask the mail server\'s administrator')
        return Finding(
            RELAY,
            WARNING,
            tr("{relay} did not answer {command}: {error}", relay=relay, command=command, error=refusal.error),
            remedy,
        )
    text = refusal.reply.text.replace("\n", " ")
    if not _is_final(refusal):
        remedy = tr('run "skychimp doctor" again in 10 minutes; a temporary refusal (greylisting) is normal at first')
        return Finding(
            RELAY,
            WARNING,
            tr("{relay} does not accept {command} now: {reply}", relay=relay, command=command, reply=text),
            remedy,
        )
    return Finding(
        RELAY,
        PROBLEM,
        tr("{relay} refused {command}: {reply}", relay=relay, command=command, reply=text),
        _remedy(smtp, refusal, offers),
    )


def _is_final(refusal: SendResult | None) -> bool:
    return refusal is not None and refusal.reply is not None and refusal.reply.code >= 500


def _remedy(smtp: SmtpSettings, refusal: SendResult, offers: Mapping[str, str]) -> Phrase:
    """Return what to do about a final refusal. The recipient is the sender, so it is never about a client."""
    from skychimp.transport.smtp_auth import wants_tls
    from skychimp.transport.smtp_login import USE_STARTTLS

    reply = refusal.reply
    assert reply is not None
    if wants_tls(reply):
        return USE_STARTTLS
    if smtp.username is None and (reply.code == 530 or offers.get("AUTH")):
        return tr("{set_login}, if the server requires a login", set_login=_SET_LOGIN)
    return without_doctor(classify(reply.code, reply.enhanced, reply.text, Phase.MAIL).remedy)


def _known_limits(store: Store, offers: Mapping[str, str]) -> Iterator[Finding]:
    """Check what the store knows: whether the mail server is paused, and messages that are too large for it."""
    content = col(Message.subject) + col(Message.body) + func.coalesce(Message.html, "")
    size = byte_length(content)
    with store.read() as db:
        paused = relay_pauses.latest_pause(db.connection())
        largest = db.exec(select(Message.id, size).order_by(size.desc()).limit(1)).first()
    if paused is not None:
        found = tr("paused since {since:%Y-%m-%d %H:%M} UTC: {reason}", since=paused.since, reason=paused.reason)
        yield Finding(RELAY, WARNING, found, tr('fix that, then run "skychimp run"'))
    limit = int(offers["SIZE"]) if offers.get("SIZE", "").isdecimal() else 0
    if limit and largest and largest[1] * ENCODING_OVERHEAD > limit:
        found = tr(
            "message {message_id} may be larger than the mail server accepts ({limit:,} bytes)",
            message_id=largest[0],
            limit=limit,
        )
        yield Finding(RELAY, WARNING, found, run_hint("messages", "update", largest[0]))


def _is_loopback(address: str) -> bool:
    return ip_address(address.partition("%")[0]).is_loopback
