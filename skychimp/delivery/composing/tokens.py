"""Make and read the tokens by which returned mail and unsubscribe links name a delivery; pure.

A token is the number of its key, the delivery's id and a keyed hash of both (HMAC-SHA-256, RFC 2104, cut to 128 bits).
It is written in base32hex (RFC 4648, section 7), so that a mail server may change its case. It needs no table, and a
resend has the same one. Each purpose has tokens of its own: who sees a return path cannot unsubscribe anybody.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

_MAC_SIZE = 16
_MAX_LENGTH = 64
"""Characters. The local part of an address may have as many."""


class Purpose(StrEnum):
    """What a token is for."""

    BOUNCE = "bounce"
    UNSUBSCRIBE = "unsubscribe"


class TokenKey(NamedTuple):
    """A key that tokens are made with, and its number, from 1 to 255."""

    number: int
    key: bytes


def make(key: TokenKey, purpose: Purpose, delivery_id: int) -> str:
    """Return a delivery's token: about 34 lower-case letters and digits."""
    named = bytes([key.number]) + delivery_id.to_bytes((delivery_id.bit_length() + 7) // 8)
    return _encode(named + _mac(key.key, purpose, named))


def read(keys: Mapping[int, bytes], purpose: Purpose, token: str) -> int | None:
    """Return the id of the delivery that a token is of, or None unless it was made with one of these keys."""
    if len(token) > _MAX_LENGTH or not token.isascii():
        return None
    try:
        decoded = base64.b32hexdecode(token.upper() + "=" * (-len(token) % 8))
    except binascii.Error:
        return None
    if _encode(decoded) != token.lower():  # the last character has bits that are not used
        return None
    named, mac = decoded[:-_MAC_SIZE], decoded[-_MAC_SIZE:]
    key = keys.get(named[0]) if named else None
    if key is None or not hmac.compare_digest(mac, _mac(key, purpose, named)):
        return None
    return int.from_bytes(named[1:])


def _encode(data: bytes) -> str:
    return base64.b32hexencode(data).decode().rstrip("=").lower()


def _mac(key: bytes, purpose: Purpose, named: bytes) -> bytes:
    return hmac.digest(key, purpose.encode() + b"\0" + named, "sha256")[:_MAC_SIZE]
