"""Test whose fault a reply is, and what it means."""

import csv
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.delivery.sending import replies
from skychimp.delivery.sending.refusals.faults import LOGIN_PHASE, classify, explain
from skychimp.delivery.sending.refusals.verdicts import Fault
from skychimp.models import Outcome
from skychimp.transport.interfaces import Phase, Reply
from skychimp.transport.smtp_protocol import ReplyParser

CASES = Path(__file__).parents[3] / "cases" / "replies.csv"
RECIPIENT_PHASES = [Phase.RCPT, Phase.DATA, Phase.DOT]
PHASES = ["connect", LOGIN_PHASE, *Phase]


class Wording(NamedTuple):
    """A reply that a server is known to send, and whose fault it is."""

    fault: Fault
    server: str
    phase: str
    reply: Reply


def read_wordings() -> list[Wording]:
    r"""Read the table. `\n` in a reply is the end of one of its lines."""
    with CASES.open(newline="", encoding="utf-8") as file:
        return [
            Wording(Fault(row["fault"]), row["server"], row["phase"], parse(row["reply"].replace("\\n", "\r\n")))
            for row in csv.DictReader(file)
        ]


def parse(text: str) -> Reply:
    (reply,) = ReplyParser().feed(text.encode() + b"\r\n")
    return reply


WORDINGS = read_wordings()


def test_fault_of_each_known_reply() -> None:
    found = [(wording, classify(*wording.reply, wording.phase)) for wording in WORDINGS]
    assert [(wording, verdict) for wording, verdict in found if verdict.fault != wording.fault] == []


def test_fault_of_the_pattern_of_each_known_reply() -> None:
    """A report has only the pattern of a reply."""
    for wording in WORDINGS:
        code, enhanced, text = wording.reply
        pattern = replies.pattern(text, "bob@example.org")
        assert classify(code, enhanced, pattern, wording.phase) == classify(*wording.reply, wording.phase), wording


def test_each_fault_and_each_reply_is_in_the_table_once() -> None:
    assert {wording.fault for wording in WORDINGS} == set(Fault)
    assert len({(wording.phase, wording.reply) for wording in WORDINGS}) == len(WORDINGS)


def test_fault_of_sender_and_relay_is_the_same_at_each_command() -> None:
    """Postfix answers MAIL only at RCPT by default (smtpd_delay_reject), and Exchange after the dot."""
    recipients = {Fault.ADDRESS, Fault.MAILBOX, Fault.MESSAGE, Fault.REFUSED, Fault.TEMPORARY}
    for fault, _, at, reply in WORDINGS:
        if fault not in recipients and at in list(Phase):
            assert {classify(*reply, phase).fault for phase in Phase} == {fault}, reply.text


@pytest.mark.parametrize(
    ("reply", "phase", "meaning", "remedy"),
    [
        ("451 4.7.1 Greylisting in action, please come back in 00:05:00", "rcpt", "greylisting", "nothing to do"),
        ("454 Throttling failure: Maximum sending rate exceeded.", "dot", "too much email", "smtp.rate"),
        ("421 4.7.26 Your email has been rate limited because it is unauthenticated. Gmail requires all senders to "
         "authenticate with either SPF or DKIM", "dot", "slows the email down", "SPF, DKIM and DMARC"),
        ("454 Throttling failure: Daily message quota exceeded.", "dot", "used up", "higher limit"),
        ("550 5.7.515 Access denied, sending domain x.example does not meet the required authentication level", "dot",
         "SPF, DKIM or DMARC", "SPF, DKIM and DMARC"),
        ("550 5.7.60 SMTP; Client does not have permissions to send as this sender", "dot", "may not send",
         "mail.sender"),
        ("451 4.7.1 Service unavailable - try again later", "mail", "temporary problem", "nothing to do"),
        ("530 5.7.0 Must issue a STARTTLS command first", "mail", "encryption", "smtp.security"),
        ("530 5.7.0 Authentication required", "mail", "requires a login", "smtp.username"),
        ("535 5.7.8 Error: authentication failed", "login", "username or password", "smtp.password"),
        ("432 4.3.2 Concurrent connections limit exceeded.", "dot", "fewer connections", "smtp.connections"),
        ("421 too many messages in this connection", "mail", "over one connection", "nothing to do"),
        ("554 5.7.1 <bob@example.org>: Relay access denied", "rcpt", "does not relay", "smtp.username"),
        ("550 5.1.1 <bob@example.org>: User unknown", "rcpt", "does not exist", "marked as bad"),
        ("552 5.2.2 Over quota", "rcpt", "full", "another address"),
        ("452 4.2.2 Over quota", "rcpt", "full", "nothing to do"),
    ],
)  # fmt: skip
def test_meaning_and_remedy(reply: str, phase: str, meaning: str, remedy: str) -> None:
    verdict = classify(*parse(reply), phase)

    assert meaning in verdict.meaning
    assert remedy in verdict.remedy


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("550 5.7.1 no", {"connect": Fault.RELAY, LOGIN_PHASE: Fault.LOGIN, "mail": Fault.SENDER}),
        ("550 5.1.1 User unknown", {"connect": Fault.RELAY, LOGIN_PHASE: Fault.LOGIN, "mail": Fault.SENDER}),
        ("552 5.2.2 full", {"connect": Fault.RELAY, LOGIN_PHASE: Fault.LOGIN, "mail": Fault.SENDER}),
        ("552 5.3.4 too big", {"mail": Fault.MESSAGE}),
        ("450 4.2.2 full", {"connect": Fault.TEMPORARY, "mail": Fault.TEMPORARY, "rcpt": Fault.MAILBOX}),
        ("550 5.2.1 no", {"rcpt": Fault.ADDRESS, "data": Fault.REFUSED, "dot": Fault.REFUSED}),
        ("550 5.7.1 <spam.quota@example.org> no", dict.fromkeys(RECIPIENT_PHASES, Fault.REFUSED)),
        ("452 4.2.2 rate limit exceeded", dict.fromkeys(RECIPIENT_PHASES, Fault.MAILBOX)),
        ("450 4.2.1 too many emails", dict.fromkeys(RECIPIENT_PHASES, Fault.MAILBOX)),
        ("550 4.2.1 no", dict.fromkeys(RECIPIENT_PHASES, Fault.REFUSED)),
        ("550 5.4.5 no", dict.fromkeys(Phase, Fault.QUOTA)),
        ("535 5.7.8 rate limit exceeded", {LOGIN_PHASE: Fault.LOGIN}),
        ("534 5.7.9 too many connections", {LOGIN_PHASE: Fault.LOGIN}),
        ("530 5.7.0 too many emails", {"mail": Fault.LOGIN, "rcpt": Fault.LOGIN}),
        ("451 please slow down", dict.fromkeys(PHASES, Fault.RATE_LIMIT)),
        ("451 you are sending too fast", dict.fromkeys(PHASES, Fault.RATE_LIMIT)),
        ("550 5.1.1 the sender's account does not exist", dict.fromkeys(Phase, Fault.SENDER)),
        ("550 no such user, says the sender policy", dict.fromkeys(RECIPIENT_PHASES, Fault.REFUSED)),
        ("554 message too big", dict.fromkeys(Phase, Fault.MESSAGE)),
    ],
)
def test_fault_depends_on_the_command(reply: str, expected: dict[str, Fault]) -> None:
    assert {phase: classify(*parse(reply), phase).fault for phase in expected} == expected


codes = st.integers(200, 599)
enhanced_codes = st.just("") | st.from_regex(r"[245]\.[0-9]{1,2}\.[0-9]{1,3}", fullmatch=True)
texts = st.text() | st.lists(st.sampled_from([wording.reply.text for wording in WORDINGS])).map("\n".join)
phases = st.sampled_from(PHASES) | st.text()


@given(codes, enhanced_codes, texts, phases)
def test_every_reply_has_one_verdict(code: int, enhanced: str, text: str, phase: str) -> None:
    verdict = classify(code, enhanced, text, phase)

    assert verdict == classify(code, enhanced, text, phase)
    assert verdict.meaning
    assert ("marked as bad" in verdict.remedy) == (verdict.fault == Fault.ADDRESS)
    if verdict.fault == Fault.ADDRESS:
        assert code >= 500
        assert phase in RECIPIENT_PHASES
    if verdict.fault == Fault.TEMPORARY:
        assert code < 500
    if code >= 500:
        assert "automatically" not in verdict.remedy
    if code < 400:
        assert verdict.fault == Fault.TEMPORARY


@given(st.sampled_from([Outcome.FAILED, Outcome.DEFERRED, Outcome.GIVEN_BACK]), codes, enhanced_codes, texts, phases)
def test_explanation_agrees_with_the_verdict(outcome: Outcome, code: int, enhanced: str, text: str, phase: str) -> None:
    verdict = classify(code, enhanced, text, phase)

    assert explain(outcome, phase, code, enhanced, text).meaning == verdict.meaning


@pytest.mark.parametrize(
    ("outcome", "phase", "code", "enhanced", "meaning", "remedy"),
    [
        ("sent", "dot", 250, "2.0.0", "accepted", ""),
        ("failed", "rcpt", 550, "5.1.1", "mailbox does not exist", "marked as bad"),
        ("deferred", "rcpt", 450, "4.1.1", "mailbox does not exist", "automatically"),
        ("failed", "rcpt", 552, "5.2.2", "full", "another address"),
        ("deferred", "rcpt", 452, "4.2.2", "full", "automatically"),
        ("failed", "dot", 550, "5.7.23", "SPF", "SPF record"),
        ("failed", "rcpt", 550, "5.7.1", "policy", "block list"),
        ("deferred", "rcpt", 450, "4.2.0", "greylisting", "automatically"),
        ("deferred", "rcpt", 450, "", "greylisting", "automatically"),
        ("deferred", "rcpt", 451, "4.7.1", "temporary problem", "automatically"),
        ("failed", "dot", 554, "5.0.0", "spam", "block list"),
        ("failed", "dot", 599, "5.9.9", "refused", "server's reply"),
        ("deferred", "data", 499, "", "refused for now", "server's reply"),
        ("failed", "mail", 553, "5.1.0", "problem with the address", "mail.sender"),
        ("failed", "mail", 0, "", "could not be composed", "preview"),
        ("given_back", "mail", 421, "", "closed the connection", "smtp.connections"),
        ("given_back", "data", 0, "", "nothing was delivered", "automatically"),
        ("deferred", "rcpt", 0, "", "nothing was delivered", "automatically"),
        ("unknown", "dot", 0, "", "may or may not have arrived", "resolve"),
        ("unknown", "dot", 354, "", "may or may not have arrived", "resolve"),
    ],
)
def test_explanation_by_the_codes(
    outcome: str, phase: str, code: int, enhanced: str, meaning: str, remedy: str
) -> None:
    explanation = explain(outcome, phase, code, enhanced, "")

    assert meaning in explanation.meaning
    assert remedy in explanation.remedy
    assert bool(remedy) == bool(explanation.remedy)


@given(st.sampled_from(Outcome), phases, codes, enhanced_codes, texts)
def test_every_reply_has_an_explanation_that_fits_its_outcome(
    outcome: Outcome, phase: str, code: int, enhanced: str, text: str
) -> None:
    explanation = explain(outcome, phase, code, enhanced, text)

    assert explanation.meaning
    if outcome == Outcome.FAILED:
        assert "automatically" not in explanation.remedy
    elif outcome != Outcome.SENT:
        assert explanation.remedy
        assert "marked as bad" not in explanation.remedy


@pytest.mark.parametrize(
    "unit",
    [
        "a", "1", " ", "\n", "\n550-5.7.1 ", "@", "a@b ", "limit ", "too many ", "exceeded", "only a", "sender ",
        "sender's x ", "client host ", "your access to ", "user ", "recipient ", "rfc ", "ip ", "rate limited because ",
        "daily x ", "quota", "\x00", "é",
    ],
)  # fmt: skip
def test_hostile_reply_is_classified_in_linear_time(unit: str) -> None:
    """The largest reply is 64 kB. One second is generous for it, but not for quadratic time."""
    text = "550 " + unit * (64_000 // len(unit)) + "!"
    started = time.process_time()
    for phase in PHASES:
        assert classify(550, "", text, phase).meaning
    assert time.process_time() - started < 1
