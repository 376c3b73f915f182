"""Get an OAuth 2 token from the command in `smtp.token_command`."""

import asyncio
import os
import re
import signal
from collections.abc import Sequence
from contextlib import suppress

from skychimp.errors import RelayRefused, RelayUnavailable
from skychimp.translation import tr

MAX_ERROR_LENGTH = 200
STOP_TIMEOUT_S = 1.0
_TOKEN = re.compile(r"[!-~]{1,8192}")
_HINT = tr("run the command by hand")


class TokenCommand:
    """Runs a command for a token, and keeps the token for all connections to one mail server."""

    def __init__(self, command: Sequence[str], timeout_s: float) -> None:
        self._command = command
        self._timeout_s = timeout_s
        self._token = ""
        self._running = asyncio.Lock()

    @property
    def has_token(self) -> bool:
        """Return whether there is a token from an earlier connection."""
        return self._token != ""

    async def get(self, *, refused: str = "") -> str:
        """Return the token. The command runs if there is none yet, or only the one that the server refused.

        Raises RelayRefused if the command cannot be run or prints no token, and RelayUnavailable if it fails or takes
        too long.
        """
        async with self._running:
            if self._token in ("", refused):
                self._token = ""
                self._token = await self._run()
            return self._token

    def forget(self, refused: str) -> None:
        """Forget a token that the server refused, so that the next connection asks for another one."""
        if self._token == refused:
            self._token = ""

    async def _run(self) -> str:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=_environment(),
                start_new_session=True,  # so that what it starts can be stopped with it
            )
        except OSError as error:
            message = tr(
                "cannot run smtp.token_command: {command}: {strerror}",
                command=self._command[0],
                strerror=error.strerror,
            )
            raise RelayRefused(message, tr("set smtp.token_command to a program that prints a token")) from None
        try:
            async with asyncio.timeout(self._timeout_s):
                return await _read_token(process)
        except BaseException as error:
            await _stop(process)
            if isinstance(error, TimeoutError):
                message = tr("smtp.token_command did not end within {timeout_s:g} s", timeout_s=self._timeout_s)
                raise RelayUnavailable(message, _HINT) from None
            raise


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Stop a command with what it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.communicate()


async def _read_token(process: asyncio.subprocess.Process) -> str:
    """Wait until the command ends, and return the first line that it printed."""
    assert process.stdout is not None
    assert process.stderr is not None
    token = await _first_line(process.stdout)
    status = await process.wait()
    if status:
        how = (
            tr("failed with status {status}", status=status)
            if status > 0
            else tr("was stopped by signal {value}", value=-status)
        )
        reason = await _first_line(process.stderr)
        if token:
            reason = reason.replace(token, "...")
        raise RelayUnavailable(
            tr("smtp.token_command {how}: {reason}", how=how, reason=reason[:MAX_ERROR_LENGTH] or "no error message"),
            _HINT,
        )
    if not _TOKEN.fullmatch(token):
        message = tr("smtp.token_command printed no token")
        raise RelayRefused(message, tr("it must print the token alone on the first line of its output"))
    return token


async def _first_line(stream: asyncio.StreamReader) -> str:
    """Return the first line of a stream, without its end, and "" if it is too long."""
    try:
        line = await stream.readline()
    except ValueError:
        return ""
    return line.decode("utf-8", "backslashreplace").strip()


def _environment() -> dict[str, str]:
    """Return the environment without our own variables. Some of them contain passwords and login tokens."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SKYCHIMP_")}
