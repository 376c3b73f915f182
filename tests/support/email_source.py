"""Give a connection emails to send, and keep their results."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from skychimp.transport.interfaces import Connection, OutgoingEmail, SendResult


async def commit() -> bool:
    return True


async def refuse() -> bool:
    return False


class Emails:
    """The source of emails that are started behind another one. `commit_intent` is awaited for each intent."""

    def __init__(
        self, following: Iterable[OutgoingEmail] = (), commit_intent: Callable[[], Awaitable[bool]] = commit
    ) -> None:
        self.results: list[SendResult] = []
        self.asked = 0
        self._following = iter(following)
        self._commit = commit_intent
        self._commits: set[asyncio.Task[None]] = set()

    def commit_intent(self, answer: Callable[[bool], None]) -> None:
        async def go() -> None:
            answer(await self._commit())

        self._commits.add(asyncio.create_task(go()))

    def take_next(self) -> OutgoingEmail | None:
        self.asked += 1
        return next(self._following, None)

    def finish(self, result: SendResult) -> None:
        self.results.append(result)


async def send_email(
    connection: Connection, email: OutgoingEmail, commit_intent: Callable[[], Awaitable[bool]] = commit
) -> SendResult | None:
    """Send one email. Return its result, or None if it has none."""
    emails = Emails(commit_intent=commit_intent)
    await connection.send(email, emails)
    return emails.results[0] if emails.results else None
