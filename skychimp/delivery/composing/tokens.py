"""Make and read the tokens by which returned mail and unsubscribe links name a delivery; pure.

A token is the number of its key, the delivery's id and a keyed hash of both (HMAC-SHA-256, RFC 2104, cut to 128 bits).
It is written in base32hex (RFC 4648, section 7), so that a mail server may change its case. It needs no table, and a
resend has the same one. Each purpose has tokens of its own: who sees a return path cannot unsubscribe anybody.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

_MAC_SIZE = 16
_BLOCK_SIZE = 64
_DIGITS = b"0123456789abcdefghijklmnopqrstuv".ljust(256)
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
    return _base32hex(named + _mac(key.key, purpose, named))


def read(keys: Mapping[int, bytes], purpose: Purpose, token: str) -> int | None:
    """Return the id of the delivery that a token is of, or None unless it was made with one of these keys."""
    if len(token) > _MAX_LENGTH or not token.isascii():
        return None
    try:
        decoded = base64.b32hexdecode(token.upper() + "=" * (-len(token) % 8))
    except binascii.Error:
        return None
    if _base32hex(decoded) != token.lower():  # the last character has bits that are not used
        return None
    named, mac = decoded[:-_MAC_SIZE], decoded[-_MAC_SIZE:]
    key = keys.get(named[0]) if named else None
    if key is None or not hmac.compare_digest(mac, _mac(key, purpose, named)):
        return None
    return int.from_bytes(named[1:])


def _mac(key: bytes, purpose: Purpose, named: bytes) -> bytes:
    """Return HMAC-SHA-256 (RFC 2104), cut to 128 bits. To go on from copies takes a third of the time of `hmac`."""
    started_inner, started_outer = _started(key, purpose)
    inner, outer = started_inner.copy(), started_outer.copy()
    inner.update(named)
    outer.update(inner.digest())
    return outer.digest()[:_MAC_SIZE]


def _base32hex(data: bytes) -> str:
    """Encode at most 40 bytes in lower case without padding, in a third of the time of `base64.b32hexencode`."""
    digits = (len(data) * 8 + 4) // 5
    number = int.from_bytes(data) << (digits * 5 - len(data) * 8)
    for low, high, shift in _SPREADS:
        number = number & low | (number & high) << shift
    return number.to_bytes(digits).translate(_DIGITS).decode()


def _spreads() -> Iterator[tuple[int, int, int]]:
    """Yield how to spread 64 digits of 5 bits to bytes: the lower and upper half of all groups, and the way to go."""
    for half in (32, 16, 8, 4, 2, 1):
        low = sum(((1 << 5 * half) - 1) << start for start in range(0, 512, 16 * half))
        yield low, low << 5 * half, 3 * half


_SPREADS = tuple(_spreads())


@lru_cache(maxsize=64)
def _started(key: bytes, purpose: Purpose) -> tuple["hashlib._Hash", "hashlib._Hash"]:
    """Return the inner and the outer hash of a purpose's HMAC, before the name and the inner digest are added."""
    block = (key if len(key) <= _BLOCK_SIZE else hashlib.sha256(key).digest()).ljust(_BLOCK_SIZE, b"\0")
    inner, outer = (hashlib.sha256(bytes(byte ^ pad for byte in block)) for pad in (0x36, 0x5C))
    inner.update(purpose.encode() + b"\0")
    return inner, outer
