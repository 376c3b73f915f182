"""Decide whose fault a server's refusal is, and explain what a reply means; pure.

`words.RULES` goes by the words of a reply, and `codes.BY_DETAIL` and `codes.BY_CODE` by its codes alone.
"""

import re
from functools import cache, lru_cache
from typing import NamedTuple

from skychimp.delivery.sending import replies
from skychimp.delivery.sending.refusals.codes import BY_CODE, BY_DETAIL
from skychimp.delivery.sending.refusals.remedies import (
    ASK_CLIENT,
    ASK_RELAY,
    CLIENT_REMEDIES,
    READ_REPLY,
    SENDER,
    WAIT,
)
from skychimp.delivery.sending.refusals.verdicts import Fault, Verdict
from skychimp.delivery.sending.refusals.words import RULES, Rule
from skychimp.models import Outcome
from skychimp.translation import Phrase, tr
from skychimp.transport.interfaces import Phase


class Explanation(NamedTuple):
    """What a reply means, and what a person can do about it ("" if nothing needs to be done)."""

    meaning: str
    remedy: Phrase = ""


LOGIN_PHASE = "login"
"""The phase of a reply to AUTH. Any other phase that is not a `Phase` is before it: the greeting, EHLO or STARTTLS."""

_ACCEPTED = Explanation(tr("accepted for delivery by the mail server"))
_WRITTEN = Explanation(tr("written to the outbox on this machine, and not sent"), tr('set mail.transport = "smtp"'))
_UNKNOWN = Explanation(
    tr("the whole email was sent, but no valid reply came, so it may or may not have arrived"),
    tr('it is sent again later, unless you run "skychimp resolve" first'),
)
_NO_REPLY = Explanation(tr("no valid reply came, and nothing was delivered"), WAIT)
_NOT_COMPOSED = Explanation(
    tr("the email could not be composed"), tr('fix the message: run "skychimp messages preview"')
)


def classify(code: int, enhanced: str, text: str, phase: str) -> Verdict:
    """Return whose fault a reply of 4xx or 5xx is, what it means, and what to do.

    `text` is the whole reply, or its `replies.pattern`. `phase` is a `Phase`, `LOGIN_PHASE`, or any other name if the
    server did not get as far. Any other code counts as temporary.
    """
    if code < 400:
        return Verdict(Fault.TEMPORARY, *_NO_REPLY)
    codes, words = f"{code} {enhanced or '-'} {phase}", replies.pattern(text).lower()
    verdict = _by_words(codes, words) or _by_codes(code, enhanced)
    if phase not in (Phase.RCPT, Phase.DATA, Phase.DOT):
        verdict = _before_recipient(verdict, code, phase)
    return _final(verdict) if code >= 500 else _retried(verdict)


@lru_cache(maxsize=512)  # a server refuses many emails in the same words
def _by_words(codes: str, words: str) -> Verdict | None:
    for codes_pattern, words_pattern, rule in _compiled_rules():
        if codes_pattern.match(codes) and words_pattern.search(words):
            return Verdict(rule.fault, rule.meaning, rule.remedy)
    return None


@cache
def _compiled_rules() -> list[tuple[re.Pattern[str], re.Pattern[str], Rule]]:
    return [(re.compile(rule.codes), re.compile(rule.words), rule) for rule in RULES]


def _by_codes(code: int, enhanced: str) -> Verdict:
    """Return the verdict by the detail of the enhanced code, or by the code if there is no useful detail."""
    is_final = code >= 500
    by_code = BY_CODE.get(code) or Verdict(Fault.REFUSED, "refused" if is_final else tr("refused for now"), READ_REPLY)
    detail = enhanced.partition(".")[2]
    is_vague = detail == "0.0" or (not is_final and (detail.endswith(".0") or detail == "7.1"))
    verdict = by_code if is_vague else BY_DETAIL.get(detail, by_code)
    if is_final:
        is_sure = verdict.fault != Fault.ADDRESS or enhanced.startswith("5")  # not 550 4.2.1: disabled for a while
        return verdict if is_sure else verdict._replace(fault=Fault.REFUSED, remedy=ASK_CLIENT)
    return verdict if verdict.fault in _LIMITS else verdict._replace(fault=Fault.TEMPORARY)


_LIMITS = (Fault.MAILBOX, Fault.SESSION_LIMIT, Fault.CONNECTION_LIMIT, Fault.RATE_LIMIT, Fault.QUOTA)


def _before_recipient(verdict: Verdict, code: int, phase: str) -> Verdict:
    """Return the verdict on a reply that came before the server knew the recipient."""
    fault, meaning, remedy = verdict
    if fault not in (Fault.ADDRESS, Fault.MAILBOX, Fault.REFUSED):
        return verdict
    if code < 500:
        return Verdict(Fault.TEMPORARY, meaning, remedy)
    if remedy in CLIENT_REMEDIES:
        remedy = SENDER
    if phase == Phase.MAIL:
        return Verdict(
            Fault.SENDER, meaning if fault == Fault.REFUSED else tr("the sender's address is refused"), remedy
        )
    return Verdict(Fault.LOGIN if phase == LOGIN_PHASE else Fault.RELAY, meaning, remedy)


def _final(verdict: Verdict) -> Verdict:
    """Return the verdict on a reply of 5xx, after which nothing is retried automatically."""
    if verdict.remedy != WAIT:
        return verdict
    return verdict._replace(remedy="" if verdict.fault == Fault.MAILBOX else ASK_RELAY)


def _retried(verdict: Verdict) -> Verdict:
    """Return the verdict on a reply of 4xx, after which nothing is final."""
    is_temporary = verdict.fault in (Fault.ADDRESS, Fault.REFUSED, Fault.MESSAGE)
    fault = Fault.TEMPORARY if is_temporary else verdict.fault
    return Verdict(fault, verdict.meaning, WAIT if verdict.remedy in CLIENT_REMEDIES else verdict.remedy)


def explain(outcome: str, phase: str, code: int, enhanced: str, text: str) -> Explanation:
    """Return what the reply to an attempt means. `code` is 0 if there was no reply.

    `text` is the whole reply, or its `replies.pattern`.
    """
    if outcome == Outcome.SENT:
        return _ACCEPTED
    if outcome == Outcome.OUTBOX:
        return _WRITTEN
    if outcome == Outcome.UNKNOWN:
        return _UNKNOWN
    if not code:
        return _NOT_COMPOSED if outcome == Outcome.FAILED else _NO_REPLY
    verdict = classify(code, enhanced, text, phase)
    return Explanation(verdict.meaning, _adapt_remedy(verdict.remedy, is_final=outcome == Outcome.FAILED))


def _adapt_remedy(remedy: Phrase, *, is_final: bool) -> str:
    """Return a remedy that fits: no action on a client while the email is retried, and no waiting after a failure."""
    if not is_final and (not remedy or remedy in CLIENT_REMEDIES):
        return WAIT
    if is_final and remedy == WAIT:
        return ASK_RELAY
    return remedy
