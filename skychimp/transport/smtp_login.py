"""Log in to a mail server: which mechanism is used, and what to do about a refusal."""

from typing import NamedTuple

from skychimp.config.settings import SmtpSettings
from skychimp.config.types import Security
from skychimp.errors import RelayError, RelayRefused, RelayUnavailable
from skychimp.text import with_or
from skychimp.translation import Phrase, tr
from skychimp.transport.interfaces import Reply
from skychimp.transport.smtp_auth import (
    LOGIN,
    PLAIN,
    XOAUTH2,
    is_unsupported,
    login_lines,
    oauth_error,
    secrets_in,
    wants_oauth,
    wants_tls,
)
from skychimp.transport.smtp_connection import SmtpConnection
from skychimp.transport.token_command import TokenCommand

USE_OAUTH = tr('set smtp.auth = "xoauth2" and smtp.token_command')
USE_STARTTLS = tr('set smtp.security = "starttls"')


class _Refusal(NamedTuple):
    """A reply that refuses a login, and its text on one line without passwords and tokens."""

    reply: Reply
    text: str


class Login:
    """Logs in on all connections to one mail server.

    `unsupported` are the mechanisms that the server offered but does not support. They are not tried again.
    """

    def __init__(self, settings: SmtpSettings, relay: str) -> None:
        self.unsupported: set[str] = set()
        self._settings = settings
        self._relay = relay
        command = settings.token_command
        self._tokens = TokenCommand(command, settings.timeout.total_seconds()) if command is not None else None

    async def log_in(self, connection: SmtpConnection, username: str) -> None:
        """Log in by the first mechanism that the server supports.

        The next mechanism is tried only if the server does not support one: it may lock an account after some wrong
        logins. Raises RelayRefused, RelayUnavailable and ConfigError, and what `send_command` raises.
        """
        password = self._settings.read_password()
        offered = connection.protocol.capabilities.get("AUTH", "").upper().split()
        mechanisms = self._choose_mechanisms(offered, has_password=password is not None)
        if self._settings.security == Security.NONE and not connection.is_loopback:
            raise RelayRefused(tr("refusing to log in without TLS"), tr('set smtp.security to "starttls" or "tls"'))
        for mechanism in mechanisms:
            if mechanism == XOAUTH2:
                refusal = await self._try_tokens(connection, username)
            else:
                refusal = await _try(connection, mechanism, username, password or "")
            if refusal is None:
                return
            error = self._error(refusal, mechanism, offered)
            if not is_unsupported(refusal.reply):
                raise error
            self.unsupported.add(mechanism)
        self.unsupported.clear()  # so that the next connection finds out whether this has changed
        raise error

    def _choose_mechanisms(self, offered: list[str], *, has_password: bool) -> list[str]:
        """Return the mechanisms to try in order. Raises RelayRefused if there is none."""
        auth = self._settings.auth
        wanted = [auth.upper()] if auth is not None else [XOAUTH2, PLAIN, LOGIN]
        has_secret = {XOAUTH2: self._tokens is not None, PLAIN: has_password, LOGIN: has_password}
        usable = [mechanism for mechanism in wanted if mechanism in offered and has_secret[mechanism]]
        if usable:
            return [mechanism for mechanism in usable if mechanism not in self.unsupported] or usable
        if auth == "xoauth2" and self._tokens is None:
            raise RelayRefused(tr('smtp.auth is "xoauth2" but there is no token'), tr("set smtp.token_command"))
        if auth is None and self._tokens is None and XOAUTH2 in offered and not {PLAIN, LOGIN} & set(offered):
            raise RelayRefused(tr("{relay} takes no passwords, only OAuth 2 tokens", relay=self._relay), USE_OAUTH)
        if not any(has_secret[mechanism] for mechanism in wanted):
            raise RelayRefused(tr("smtp.username is set but there is no password"), tr("set smtp.password_file"))
        names = with_or(mechanism for mechanism in wanted if has_secret[mechanism])
        if offered:
            message = tr(
                "{relay} does not offer login by {wanted}, only by {offered}",
                relay=self._relay,
                wanted=names,
                offered=with_or(offered),
            )
        else:
            message = tr("{relay} does not offer login by {wanted}", relay=self._relay, wanted=names)
        raise RelayRefused(message, self._offer_hint(offered))

    def _offer_hint(self, offered: list[str]) -> Phrase:
        if offered and self._settings.auth is not None:
            return tr("remove smtp.auth to use what is offered")
        if offered:
            return tr("use a mail server that offers it")
        if self._settings.security == Security.NONE:
            return tr(
                "{set_starttls} if the server offers login only with TLS, or remove smtp.username",
                set_starttls=USE_STARTTLS,
            )
        return tr("remove smtp.username if the server needs no login, or check smtp.host and smtp.port")

    async def _try_tokens(self, connection: SmtpConnection, username: str) -> _Refusal | None:
        """Log in by a token. One from an earlier connection may have expired, and is replaced once."""
        assert self._tokens is not None
        was_kept = self._tokens.has_token
        token = await self._tokens.get()
        refusal = await _try(connection, XOAUTH2, username, token)
        if was_kept and refusal is not None and refusal.reply.code == 535 and not is_unsupported(refusal.reply):
            refused, token = token, await self._tokens.get(refused=token)
            if token != refused:
                refusal = await _try(connection, XOAUTH2, username, token)
        if refusal is not None:
            self._tokens.forget(token)
        return refusal

    def _error(self, refusal: _Refusal, mechanism: str, offered: list[str]) -> RelayError:
        reply, text = refusal
        if 400 <= reply.code < 500:
            return RelayUnavailable(
                tr("{relay} cannot log in now: {reply}", relay=self._relay, reply=text), tr("try again later")
            )
        hint = tr("check smtp.username and smtp.password")
        if wants_tls(reply):
            hint = USE_STARTTLS
        elif mechanism == XOAUTH2:
            hint = tr("check smtp.username, and the account and scope of the token from smtp.token_command")
        elif wants_oauth(reply) or (is_unsupported(reply) and XOAUTH2 in offered):
            hint = USE_OAUTH
        elif is_unsupported(reply):
            hint = tr("remove smtp.auth, or ask the mail server's administrator how to log in")
        return RelayRefused(tr("{relay} refused the login: {reply}", relay=self._relay, reply=text), hint)


async def _try(connection: SmtpConnection, mechanism: str, username: str, secret: str) -> _Refusal | None:
    """Log in by one mechanism. Return None after a success."""
    lines = login_lines(mechanism, username, secret)
    for line in lines:
        reply = await connection.send_command(line)
        if reply.code != 334:
            break
    details = ""
    if mechanism == XOAUTH2 and reply.code == 334:  # the reason, before the refusal itself
        details = oauth_error(reply)
        reply = await connection.send_command(b"")
    if reply.code == 235:
        return None
    text = reply.text.replace("\n", " ") + (f" ({details})" if details else "")
    for part in filter(None, (secret, *secrets_in(lines))):  # some servers repeat their input
        text = text.replace(part, "...")
    return _Refusal(reply, text)
