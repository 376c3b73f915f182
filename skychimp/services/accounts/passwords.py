"""Passwords: Argon2id, and the same work whether or not there is a password to compare with."""

import unicodedata

from skychimp.errors import InvalidValue

SHORTEST = 8
LONGEST = 1000


def check(password: str) -> None:
    """Raise InvalidValue for what can't be a password; its text stays out of the message."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise InvalidValue(f"a password has {SHORTEST} to {LONGEST} characters")
    if any("\ud800" <= character <= "\udfff" for character in password):
        raise InvalidValue("the password is not UTF-8 text")


def hashed(password: str) -> str:
    """The hash of a new password. Raises InvalidValue for one that can't be a password.

    The library's parameters are RFC 9106's second choice (64 MiB, 3 passes), which is more than OWASP asks for.
    """
    from argon2 import PasswordHasher

    check(password)
    return PasswordHasher().hash(_octets(password))


def is_right(password: str, password_hash: str | None) -> bool:
    """Whether this is the password of a hash; never without one, which takes as long to find out."""
    from argon2 import PasswordHasher
    from argon2.exceptions import InvalidHashError, VerificationError

    hasher = PasswordHasher()
    if password_hash is None:
        hasher.hash(_octets(password))
        return False
    try:
        return hasher.verify(password_hash, _octets(password))
    except (VerificationError, InvalidHashError):
        return False


def renewed(password: str, password_hash: str) -> str:
    """The hash of a right password, made anew where it is of other parameters than those of today."""
    from argon2 import PasswordHasher

    hasher = PasswordHasher()
    return hasher.hash(_octets(password)) if hasher.check_needs_rehash(password_hash) else password_hash


def _octets(password: str) -> bytes:
    """The same for the same characters, however a keyboard composes them (NIST SP 800-63B, 3.1.1.2)."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
