"""Find what a text for people says about each of several addresses; pure."""

import re
from collections.abc import Collection, Sequence
from itertools import islice

from skychimp.delivery.inbound import severity
from skychimp.delivery.inbound.severity import MAX_REPLY_LENGTH

_MAX_PASSAGES = 10
"""For each address."""
_MAX_ADDRESSES = 20
_ADDRESS = re.compile(r"(?<![\w.+=/-])[\w.+=/-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}")
_REPLY_LINE = re.compile(r"[ \t]{0,8}(?:<<< )?([245]\d\d)[ -]")
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n")
_IS_RECIPIENT = re.compile(
    r"(?:\bto|recipients?(?: address| name)?|(?:e-?mail )?address(?:es)?|mailbox|user(?: name)?|account)"
    r"[\s:<\"'(]{1,10}$|^[\s<]{0,20}$",
    re.IGNORECASE,
)


def replies_about(addresses: Sequence[str], text: str) -> dict[str, str]:
    """Return the passage of a text that says why each address failed, else what the text says of all of them.

    A passage is the lines from one that names the address to the next one that names another. What is said about one
    address must not count for another.
    """
    passages = _passages(addresses, text)
    return {address: _best(address, passages[address], text, is_alone=len(passages) == 1) for address in addresses}


def named_recipients(text: str, senders: Collection[str]) -> list[str]:
    """Return the addresses that a text says something about, else one that is called a recipient, else the first.

    `senders` are addresses that the report was sent to: it is about one of them only if it names no other.
    """
    found = list(islice(_ADDRESS.finditer(text), _MAX_ADDRESSES))
    found = [match for match in found if match[0].lower() not in senders] or found
    replies = replies_about(list(dict.fromkeys(match[0] for match in found)), text)
    if len(replies) > 1 and (coded := [address for address, reply in replies.items() if severity.has_code(reply)]):
        return coded
    called = [match[0] for match in found if _IS_RECIPIENT.search(text[max(0, match.start() - 60) : match.start()])]
    return [*called, *(match[0] for match in found)][:1]


def _passages(addresses: Sequence[str], text: str) -> dict[str, list[list[str]]]:
    passages: dict[str, list[list[str]]] = {address: [] for address in addresses}
    lower = {address: address.lower() for address in addresses if address}
    named: list[str] = []
    for line in text.split("\n"):
        small = line.lower() if "@" in line else ""
        found = [address for address in lower if lower[address] in small] if small else []
        if found and found != named:
            named = [address for address in found if len(passages[address]) < _MAX_PASSAGES]
            for address in named:
                passages[address].append([])
        for address in named:
            passages[address][-1].append(line)
    return passages


def _best(address: str, passages: Sequence[Sequence[str]], text: str, *, is_alone: bool) -> str:
    """Return the passage with a code, or else the one that says why. An address that is alone has the whole text."""
    candidates = [_shorten(_without_next_reply(passage), address) for passage in passages]
    coded = [each for each in candidates if severity.has_code(each)]
    if is_alone:
        coded += [_shorten(paragraph, "") for paragraph in _PARAGRAPH_END.split(text) if severity.has_code(paragraph)]
        candidates.append(_shorten(text, ""))
    return next(filter(severity.says_why, [*coded, *candidates]), next(reversed(candidates), ""))


def _without_next_reply(passage: Sequence[str]) -> str:
    """Return the lines of a passage up to a reply with another code, which may be about another recipient."""
    codes = [(number, found[1]) for number, line in enumerate(passage) if (found := _REPLY_LINE.match(line))]
    end = next((number for number, code in codes if code != codes[0][1]), len(passage))
    return "\n".join(passage[:end])


def _shorten(passage: str, address: str) -> str:
    """Return a passage on one line, without the address that it begins with."""
    words = " ".join(passage[: 2 * MAX_REPLY_LENGTH].split())
    if address and words[: len(address) + 3].lower().lstrip("<(\"'* ").startswith(address.lower()):
        words = words.partition(address)[2] or words
    return words.strip(" >:;)]\"'")[:MAX_REPLY_LENGTH]
