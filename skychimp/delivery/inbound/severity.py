"""Tell what a bounce says about an address; pure.

The table of the replies to our own emails decides (`refusals`). Only the words of mail servers that have given up are
added here: a reply of theirs never comes to us.
"""

import re
from enum import IntEnum
from functools import cache

from skychimp.delivery.sending.refusals import faults
from skychimp.delivery.sending.refusals.verdicts import Fault
from skychimp.transport.interfaces import Phase

MAX_REPLY_LENGTH = 1_000


class Severity(IntEnum):
    """What a bounce says about an address, the mildest first."""

    POLICY = 1
    """The email was refused for what it is or where it came from. The address may be good."""
    SOFT = 2
    """The mailbox could not take it, or its server did not answer."""
    HARD = 3
    """The address does not exist."""


_CODE = re.compile(r"(?<![\w.])([45][0-5]\d)(?=[ -]|$)(?!-\d\d\d)")
_ENHANCED = re.compile(r"(?<![\w.])([45]\.\d{1,3}\.\d{1,3})(?![\w.])")
_PREFIX = re.compile(r"^\s*(?:smtp|x-[\w-]{1,30}|unix|dns)\s*;\s*", re.IGNORECASE)
_AFTER_DATA = re.compile(r"end of data|\bDATA\b|message text", re.IGNORECASE)

_LOCAL_PROGRAM_FAILED = re.compile(
    r"\b(?:procmail|maildrop|deliver|dovecot-lda|mail\.local):.{0,60}"
    r"(?:could ?n.t|could not|can.t|cannot|unable|error|failed|over quota)",
    re.IGNORECASE,
)
"""The words of a program that puts email into mailboxes. It may say that something else does not exist."""

_RULES = (
    # In doubt, the address is good: also where a reply names a sender or a policy beside an address.
    (
        Severity.POLICY,
        r"\bspam\b|block(?:ed|list)|black ?list|polic(?:y|ies)|reputation|dmarc|\bspf\b|\bdkim\b|\brbl\b|\bsender\b"
        r"|mail from|\bhelo\b|reverse dns|\bptr\b|your (?:domain|host|server)|client host|may not exist",
    ),
    (
        Severity.SOFT,
        r"(?:mailbox|inbox|quota|mail folder).{0,40}(?:full|exceed|limit|lleno|cheia|voll\b)|over ?quota"
        r"|, try again|try again later|temporar",
    ),
    (
        Severity.HARD,
        r"(?:host|domain)(?: or domain name)?(?: name)?(?: \S{1,100})?(?: was)?"
        r" (?:not found|unknown|does(?:n't| not) exist)"
        r"|unknown host|no such (?:domain|host)|unrout(?:e)?able (?:mail )?(?:address|domain)"
        r"|couldn't find (?:any host|a mail exchanger or ip address)|domain .{1,100} does(?:n't| not) exist"
        r"|null ?mx|no mx record|indicated no smtp service|illegal host/domain"
        # RFC 7504, sections 3 and 5: a host that accepts no mail at all. 5.3.2 alone can be a server that is stopping.
        r"|^521 5\.3\.2 .*system not accepting network messages",
    ),
    (
        Severity.HARD,
        r"no such (?:user|address|person|recipient|mailbox|local user)|recip(?:ient)?notfound"
        r"|not listed in .{0,40}(?:directory|address book)"
        r"|destinatario (?:desconocido|inexistente)|(?:casilla|cuenta|buz[oó]n) .{0,30}(?:ha expirado|no existe)"
        r"|usu[aá]rio (?:inv[aá]lido|desconhecido|inexistente)|(?:destinataire|utilisateur) inconnu"
        r"|empf(?:ä|ae)nger unbekannt|utente sconosciuto|(?:пользовател[ья]|адрес) не (?:найден|существует)"
        r"|(?:ディレクトリ|デレクトリ).{0,20}(?:見つかりません|ありません)"  # HCL Domino
        r"|(?:user|mailbox|recipient|account|addressee|address)(?: name)?(?: is| was)? (?:unknown|not (?:found|known))"
        r"|unknown (?:user|local[ -]part|recipient|address(?! error))"
        r"|address (?:could ?n[o']t|was ?n[o']t) (?:be )?found"
        r"|not a (?:valid|known) (?:user|mailbox|recipient|address)"
        r"|no valid recipients|invalid (?:recipient|mailbox|user|final delivery userid)\b"
        r"|(?:user|mailbox|recipient|account|address)(?: \S{1,100})? does(?:n't| not) exist",
    ),
    # Exchange Online, Cisco and Outlook.com say so of an address that their directory does not have.
    (Severity.HARD, r"^\d+ 5\.4\.1 .*recipient address rejected: access denied|^\d+ 5\.1\.0 .*address rejected"),
    (
        Severity.HARD,
        r"^\d+ 5\.4\.4 .*invalid domain"
        r"|^550 (?:5\.5\.0|.*\.(?:hotmail|outlook)\.com\b).*requested action not taken: mailbox unavailable",
    ),
)
"""The first rule whose pattern is found decides. It is searched in the code, the enhanced code and the words."""

_BY_FAULT = {Fault.ADDRESS: Severity.HARD, Fault.MAILBOX: Severity.SOFT, Fault.TEMPORARY: Severity.SOFT}


def of_reply(reply: str, status: str = "") -> Severity:
    """Return what a server's reply says. `status` is that of its report (RFC 3463), "" if there is none."""
    words = _PREFIX.sub("", reply)[:MAX_REPLY_LENGTH]
    if _LOCAL_PROGRAM_FAILED.search(words):
        return Severity.SOFT
    code, enhanced = _codes(words, status)
    phase = Phase.DOT if _AFTER_DATA.search(words) else Phase.RCPT
    fault = faults.classify(code, enhanced, words, phase).fault
    if fault in _BY_FAULT:
        return _BY_FAULT[fault]
    if fault != Fault.REFUSED:
        return Severity.POLICY
    in_doubt = Severity.POLICY if re.match(r"\d\.7\.", enhanced) else Severity.SOFT
    text = f"{code} {enhanced or '-'} {words}"
    return next((severity for severity, pattern in _compiled_rules() if pattern.search(text)), in_doubt)


def has_code(text: str) -> bool:
    """Return whether a text has a server's code for a failure, such as `550` or `5.1.1`."""
    return bool(_ENHANCED.search(text) or _CODE.search(text))


def says_why(text: str) -> bool:
    """Return whether a text says why an email was refused: with a server's code, or in words that are known here."""
    return has_code(text) or any(pattern.search(text[:MAX_REPLY_LENGTH]) for _, pattern in _compiled_rules())


def says_little(reply: str, status: str) -> bool:
    """Return whether neither a reply nor the status says why the email was refused."""
    has_words = len(_CODE.sub("", _ENHANCED.sub("", _PREFIX.sub("", reply))).split()) > 1
    return not has_words and (not status or status.endswith(".0"))


def _codes(words: str, status: str) -> tuple[int, str]:
    """Return the code and the enhanced code. Those in the reply are the receiving server's own."""
    codes, details = _CODE.findall(words), _ENHANCED.findall(words)
    enhanced = next((detail for detail in details if not detail.endswith(".0.0")), status or next(iter(details), ""))
    code = int(codes[0]) if codes else 0
    if code < 400:
        code = 450 if enhanced.startswith("4") else 550
    return code, enhanced


@cache
def _compiled_rules() -> list[tuple[Severity, re.Pattern[str]]]:
    return [(severity, re.compile(pattern, re.IGNORECASE)) for severity, pattern in _RULES]
