"""Validate, hash and check passwords with Argon2id.

A check takes the same work whether or not there is a password to compare with.
"""

import unicodedata

from skychimp.errors import InvalidValue

MIN_LENGTH = 8
MAX_LENGTH = 1000


def validate(password: str) -> None:
    """Raise InvalidValue if this cannot be a password. The message does not contain it."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise InvalidValue(f"the password must have {MIN_LENGTH} to {MAX_LENGTH} characters")
    if any("\ud800" <= character <= "\udfff" for character in password):
        raise InvalidValue("the password is not valid UTF-8")


def hash_password(password: str) -> str:
    """Return the hash of a new password. Raises InvalidValue if it cannot be a password.

    The library's parameters are RFC 9106's second choice (64 MiB, 3 passes), which is more than OWASP asks for.
    """
    from argon2 import PasswordHasher

    validate(password)
    return PasswordHasher().hash(_encoded(password))


def is_right(password: str, password_hash: str | None) -> bool:
    """Return whether a password matches a hash. Without a hash it never does, but the check takes as long."""
    from argon2 import PasswordHasher
    from argon2.exceptions import InvalidHashError, VerificationError

    hasher = PasswordHasher()
    if password_hash is None:
        hasher.hash(_encoded(password))
        return False
    try:
        return hasher.verify(password_hash, _encoded(password))
    except (VerificationError, InvalidHashError):
        return False


def rehash_if_outdated(password: str, password_hash: str) -> str:
    """Return the hash of a correct password: a new one if it was made with other parameters than today's."""
    from argon2 import PasswordHasher

    hasher = PasswordHasher()
    return hasher.hash(_encoded(password)) if hasher.check_needs_rehash(password_hash) else password_hash


def _encoded(password: str) -> bytes:
    """Return the same bytes for the same characters, whatever Unicode form they have (NIST SP 800-63B, 3.1.1.2)."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
