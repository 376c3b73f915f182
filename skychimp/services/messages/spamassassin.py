"""Ask SpamAssassin what it thinks of an email, if it is installed."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from email.parser import BytesHeaderParser
from email.policy import compat32
from typing import NamedTuple

from skychimp.services.messages.checks.findings import MessageFinding
from skychimp.services.operations.findings import OK, WARNING
from skychimp.translation import tr

TIMEOUT_S = 60.0
"""SpamAssassin asks name servers, and starts slowly without its daemon."""
MAX_OUTPUT_SIZE = 4_000_000

_STATUS = re.compile(r"\w+,\s+score=(-?[\d.]+)\s+required=(-?[\d.]+)")
_RULES = re.compile(r"\btests=(\w+(?:,\s*\w+)*)")


class Verdict(NamedTuple):
    """The score of an email, the score from which it is spam, and the rules that added to it."""

    score: float
    required: float
    rules: Sequence[str]


def check_spam(email: bytes, *, is_online: bool) -> MessageFinding | None:
    """Return SpamAssassin's verdict on an email, or why there is none. None if it is not installed.

    It asks name servers only if `is_online`, or if its daemon is set up for that.
    """
    commands = (["spamc", "-x"], ["spamassassin"] if is_online else ["spamassassin", "--local"])
    installed = [command for command in commands if shutil.which(command[0])]
    for command in installed:
        if verdict := read_verdict(_run(command, email)):
            return _finding(verdict)
    if not installed:
        return None
    return MessageFinding("spam", WARNING, tr("SpamAssassin gave no score"), tr('run "spamassassin --lint"'))


def read_verdict(email: bytes) -> Verdict | None:
    """Return the verdict in the headers that SpamAssassin adds to an email, None if there is none."""
    status = BytesHeaderParser(policy=compat32).parsebytes(email)["X-Spam-Status"]
    match = _STATUS.match(str(status)) if status else None
    if match is None:
        return None
    try:
        score, required = float(match[1]), float(match[2])
    except ValueError:
        return None
    rules = _RULES.search(str(status))
    return Verdict(score, required, [] if rules is None or rules[1] == "none" else re.split(r",\s*", rules[1]))


def _finding(verdict: Verdict) -> MessageFinding:
    rules = f": {', '.join(verdict.rules)}" if verdict.rules else ""
    found = f"SpamAssassin gives {verdict.score:g} points, and takes {verdict.required:g} for spam{rules}"
    is_spam = verdict.score >= verdict.required
    remedy = tr("change what these rules describe") if is_spam else None
    return MessageFinding("spam", WARNING if is_spam else OK, found, remedy)


def _run(command: Sequence[str], email: bytes) -> bytes:
    """Return what a program makes of an email, "" if it fails or takes too long."""
    # Without our own variables, some of which are passwords and login tokens.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SKYCHIMP_")}
    try:
        process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environ,
            start_new_session=True,  # so that what it starts can be stopped with it
        )
    except OSError:
        return b""
    with process:
        try:
            out, _ = process.communicate(email, TIMEOUT_S)
        except BaseException as error:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                return b""
            raise
    return b"" if process.returncode else out[:MAX_OUTPUT_SIZE]
