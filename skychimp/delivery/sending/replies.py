"""What servers' replies say: alike ones as one, the queue id in them, what a code means and what to do; pure."""

import re
from typing import NamedTuple

from skychimp.models import Outcome

LONGEST_PATTERN = 240
VARIES = "…"

_CODES = re.compile(r"^[2-5][0-9][0-9][ -]?(?:[245]\.[0-9]{1,3}\.[0-9]{1,3}(?: |$))?", re.MULTILINE)
_SERVERS_OWN = r"[\[(][A-Z]{1,4}[0-9]{1,5}[\])]"  # as (S3140): the same in each letter
_VARYING = re.compile(rf"(?:(?<!\S)(?!{_SERVERS_OWN})(?:[^\s@0-9]*[@0-9]\S*|[A-F]{{8,}}(?!\S))(?:\s+|$))+")
_WORDS = re.compile(r"([^\w.+-]+)")
_USUAL = {
    "account", "address", "client", "domain", "info", "mail", "mailbox", "message", "name", "office", "postmaster",
    "recipient", "relay", "sales", "sender", "server", "service", "spam", "support", "user",
}  # fmt: skip
"""Local parts that are words of a reply, too."""


def pattern(reply: str, address: str = "") -> str:
    """A reply without its codes, and with `…` for what varies from letter to letter: addresses, ids, numbers.

    `address` is the recipient's, whose parts some servers name alone.
    """
    words = _CODES.sub("", reply) if "\n" in reply else reply
    if address:
        words = _without(words, address)
    words = _VARYING.sub("… ", words).removeprefix("… ")
    return " ".join(words[:LONGEST_PATTERN].split())


def _without(words: str, address: str) -> str:
    local_part, _, domain = address.rpartition("@")
    words = words.replace(domain, VARIES)
    if len(local_part) < 3 or local_part in _USUAL or local_part not in words.lower():
        return words
    return "".join(VARIES if part.lower() == local_part else part for part in _WORDS.split(words))


_QUEUE_IDS = tuple(
    re.compile(rf"{form}(?![^\s>,;)\]])", re.IGNORECASE)
    for form in (
        r"\[InternalId=(?P<id>[0-9]+)",  # Exchange
        r"\bqueued(?: for delivery)? as[: ]+<?(?P<id>[\w.-]{4,})",  # Postfix
        r"\bqueued \((?P<id>[\w.-]{4,})",  # Haraka
        r"\bid[=:] ?<?(?P<id>[\w.-]{6,})",  # Exim
        r"\bOK +[0-9]{10} (?P<id>[\w.-]+)(?= - gsmtp)",  # Gmail
        r"\bok [0-9]{10} (?P<id>qp [0-9]+)",  # qmail
        r"(?P<id>[\w.-]{8,}) Message accepted for delivery",  # Sendmail, OpenSMTPD
        r"^250 Ok (?P<id>[0-9a-f]{12,}[0-9a-f-]+)",  # Amazon SES
        r"\boutbox as new/(?P<id>\S+)",
    )
)


def queue_id(reply: str) -> str:
    """The id under which a server's own log knows the letter; "" where its reply names none."""
    if not reply.startswith("2") and "not a reply" not in reply:
        return ""
    found = filter(None, (form.search(reply) for form in _QUEUE_IDS))
    return next((match["id"] for match in found), "")


class Meaning(NamedTuple):
    """What an answer means, and what a person can do about it ("" where there is nothing to do)."""

    what: str
    remedy: str = ""


_ASK_THE_CLIENT = "ask the client for another address: skychimp clients update"
_MARKED = f"the client is marked as bad and left out from now on; {_ASK_THE_CLIENT}"
_ABOUT_THE_CLIENT = (_ASK_THE_CLIENT, _MARKED)
_WAIT = "nothing: it is tried again by itself"
_SENDER = "mend mail.sender, and look at its domain: skychimp doctor"
_REPUTATION = "see whether your server is on a block list, and that SPF, DKIM and DMARC pass: skychimp doctor"
_SHORTER = "make the letter smaller"
_LOGIN = "mend smtp.username and smtp.password: skychimp doctor"
_RELAY = "ask whoever runs your relay"

_BY_DETAIL = {
    "1.0": Meaning("something is wrong with the address", _ASK_THE_CLIENT),
    "1.1": Meaning("there is no such mailbox", _MARKED),
    "1.2": Meaning("there is no such domain, or none that takes mail", _MARKED),
    "1.3": Meaning("the address is not written as one", _MARKED),
    "1.4": Meaning("the address stands for more than one mailbox", _ASK_THE_CLIENT),
    "1.6": Meaning("the mailbox has moved, nobody says where to", _MARKED),
    "1.7": Meaning("the sender's address is not written as one", _SENDER),
    "1.8": Meaning("the sender's domain can't get mail", _SENDER),
    "1.10": Meaning("the domain takes no mail at all", _ASK_THE_CLIENT),
    "2.0": Meaning("something is wrong with the mailbox", _ASK_THE_CLIENT),
    "2.1": Meaning("the mailbox is disabled", _MARKED),
    "2.2": Meaning("the mailbox is full", _ASK_THE_CLIENT),
    "2.3": Meaning("the letter is larger than this mailbox takes", _SHORTER),
    "2.4": Meaning("a mailing list at the other end can't be expanded", "tell the list's owner"),
    "3.0": Meaning("the other system has a problem of its own", _WAIT),
    "3.1": Meaning("the other system's disk is full", _WAIT),
    "3.2": Meaning("the other system takes no mail at the moment", _WAIT),
    "3.3": Meaning("the other system lacks a feature that the letter needs", _RELAY),
    "3.4": Meaning("the letter is larger than the other system takes", _SHORTER),
    "3.5": Meaning("the other system is set up wrongly", _RELAY),
    "4.0": Meaning("something is wrong on the network's way there", _WAIT),
    "4.1": Meaning("the client's mail server does not answer", _WAIT),
    "4.2": Meaning("the connection to the client's mail server broke", _WAIT),
    "4.3": Meaning("a directory or DNS server on the way failed", _WAIT),
    "4.4": Meaning("the relay finds no way to the client's domain", f"check the address; {_RELAY}"),
    "4.5": Meaning("the other system has too much to do", "send more slowly: smtp.rate"),
    "4.6": Meaning("the letter goes round in a circle at the other end", "tell whoever runs the client's mail"),
    "4.7": Meaning("it could not be delivered in time", _WAIT),
    "5.0": Meaning("the two servers misunderstood each other", _RELAY),
    "5.1": Meaning("the server did not expect that command", _RELAY),
    "5.2": Meaning("the server did not understand that command", _RELAY),
    "5.3": Meaning("too many recipients at once", "send more slowly: smtp.rate, smtp.connections"),
    "5.4": Meaning("the server does not know that parameter", _RELAY),
    "5.5": Meaning("the two servers speak different versions", _RELAY),
    "6.0": Meaning("the letter's content is not taken", "look at the letter: skychimp messages preview"),
    "6.1": Meaning("the letter's kind of content is not taken", "look at the letter: skychimp messages preview"),
    "6.3": Meaning("the letter would have to be converted, and can't be", _RELAY),
    "6.7": Meaning("the other system takes no address beyond ASCII", "ask the client for an address in ASCII"),
    "6.9": Meaning("the other system takes no header beyond ASCII", _RELAY),
    "7.0": Meaning("refused by a rule of the other system", _REPUTATION),
    "7.1": Meaning("refused by a rule: as spam, for a block list, or nobody may write there", _REPUTATION),
    "7.2": Meaning("this sender may not write to that list", "ask the list's owner"),
    "7.4": Meaning("a security feature is missing", _RELAY),
    "7.5": Meaning("the encryption failed", _RELAY),
    "7.7": Meaning("the letter was changed on its way", _RELAY),
    "7.8": Meaning("the user name or the password is wrong", _LOGIN),
    "7.9": Meaning("the way of logging in is too weak for that server", _LOGIN),
    "7.10": Meaning("the server wants encryption", 'set smtp.security to "starttls" or "tls"'),
    "7.11": Meaning("the server wants encryption before a login", 'set smtp.security to "starttls" or "tls"'),
    "7.13": Meaning("the relay's account is disabled", _RELAY),
    "7.14": Meaning("the servers don't trust each other", _RELAY),
    "7.17": Meaning("the mailbox belongs to somebody else by now", _ASK_THE_CLIENT),
    "7.18": Meaning("the domain belongs to somebody else by now", _ASK_THE_CLIENT),
    "7.20": Meaning("no DKIM signature passes", "have the relay sign with DKIM: skychimp doctor"),
    "7.21": Meaning("no acceptable DKIM signature passes", "have the relay sign with DKIM: skychimp doctor"),
    "7.22": Meaning("no DKIM signature is by the sender's domain", "sign as mail.sender's domain: skychimp doctor"),
    "7.23": Meaning("SPF does not allow your server", "add your relay to the domain's SPF record: skychimp doctor"),
    "7.24": Meaning("the SPF record can't be read", "mend the domain's SPF record: skychimp doctor"),
    "7.25": Meaning("the relay's address has no matching name (reverse DNS)", _RELAY),
    "7.26": Meaning("SPF, DKIM and DMARC all fail", _REPUTATION),
    "7.27": Meaning("the sender's domain says that it takes no mail", _SENDER),
    "7.28": Meaning("too much mail at once", "send more slowly: smtp.rate"),
    "7.29": Meaning("an ARC signature does not pass", _RELAY),
    "7.30": Meaning("the letter asks for TLS on the whole way, and there is none", _RELAY),
}
"""By subject and detail of the enhanced code (RFC 3463, and the registry of RFC 5248); those left out are no faults."""

_BY_CODE = {
    421: Meaning("the server closes the connection: too much, or it stops", "send more slowly: smtp.connections"),
    450: Meaning("the mailbox can't be reached now, or the server greylists", _WAIT),
    451: Meaning("the server has a problem of its own, or greylists", _WAIT),
    452: Meaning("the server is out of room", _WAIT),
    454: Meaning("encryption or login is not possible now", _WAIT),
    455: Meaning("the server can't do what a parameter asks now", _WAIT),
    500: Meaning("the server did not understand that command", _RELAY),
    501: Meaning("the server did not understand that address or parameter", _RELAY),
    502: Meaning("the server does not know that command", _RELAY),
    503: Meaning("the server did not expect that command", _RELAY),
    504: Meaning("the server does not know that parameter", _RELAY),
    521: Meaning("that host takes no mail", _ASK_THE_CLIENT),
    530: Meaning("the server wants a login", _LOGIN),
    534: Meaning("the way of logging in is too weak for that server", _LOGIN),
    535: Meaning("the user name or the password is wrong", _LOGIN),
    550: Meaning("there is no such mailbox, or a rule refuses the letter", "read the server's words"),
    551: Meaning("the mailbox is elsewhere", _ASK_THE_CLIENT),
    552: Meaning("the letter is too large, or the mailbox full", _SHORTER),
    553: Meaning("the server does not take an address written like that", _ASK_THE_CLIENT),
    554: Meaning("the letter is refused, often as spam", _REPUTATION),
    555: Meaning("the server does not know that parameter", _RELAY),
    556: Meaning("the domain takes no mail at all", _ASK_THE_CLIENT),
}
"""By the reply code alone (RFC 5321, section 4.2; RFC 7504)."""

_TAKEN = Meaning("taken: what comes after is the receiving system's")
_UNKNOWN = Meaning(
    "the letter had gone out whole, and no valid answer came: it may have arrived",
    "it is sent again after a while, or you decide: skychimp resolve",
)
_NO_ANSWER = Meaning("no valid answer came, and nothing was delivered", _WAIT)
_NO_LETTER = Meaning("there is no letter: it can't be composed", "mend the message: skychimp messages preview")


def explain(outcome: str, phase: str, code: int, enhanced: str) -> Meaning:
    """What an attempt's answer means, by its most telling part; `code` is 0 where no reply came."""
    if outcome == Outcome.SENT:
        return _TAKEN
    if outcome == Outcome.UNKNOWN:
        return _UNKNOWN
    if not code:
        return _NO_LETTER if outcome == Outcome.FAILED else _NO_ANSWER
    is_final = outcome == Outcome.FAILED
    subject_and_detail = enhanced.partition(".")[2]
    by_code = _BY_CODE.get(code) or Meaning("refused" if is_final else "not now", "read the server's words")
    is_vague = subject_and_detail == "0.0" or (not is_final and subject_and_detail.endswith(".0"))
    what, remedy = by_code if is_vague else _BY_DETAIL.get(subject_and_detail, by_code)
    if not is_final and remedy in _ABOUT_THE_CLIENT:
        remedy = _WAIT
    elif is_final and remedy == _WAIT:
        remedy = _RELAY
    elif phase == "mail" and remedy in _ABOUT_THE_CLIENT:
        remedy = _SENDER
    return Meaning(what, remedy)
