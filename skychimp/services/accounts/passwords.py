"""Validate, hash and check passwords with Argon2id.

A check takes the same work whether or not there is a password to compare with.
"""

import re
import unicodedata
from typing import Any

from skychimp.errors import InvalidValue
from skychimp.translation import tr

MIN_LENGTH = 12
MAX_LENGTH = 1000

_CHOOSE_ANOTHER = tr("use several words that have nothing to do with each other")
_PART_LENGTH, _MAX_PARTS = 24, 4
"""How many characters are estimated together, and how many different parts of a password: it is common if all are.

The time of an estimate grows with the cube of the length, and that many characters take less than a second.
"""
_WITHOUT_ENDS = re.compile(r"[\W\d_]*(.*?)[\W\d_]*", re.DOTALL)
"""Matches a password. The group is what is left without the digits and signs at its beginning and end."""
_MIN_SCORE = 2
"""On zxcvbn's scale of 0 to 4. A score below it means less than a million guesses."""


def validate(password: str, *owner: str) -> None:
    """Raise InvalidValue if this cannot be a new password. The message does not contain it.

    `owner` are the address and the name of the account, as far as they are known.
    """
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise InvalidValue(
            tr(
                "the password must have {min_length} to {max_length} characters",
                min_length=MIN_LENGTH,
                max_length=MAX_LENGTH,
            )
        )
    if any("\ud800" <= character <= "\udfff" for character in password):
        raise InvalidValue(tr("the password is not valid UTF-8"))
    require_not_personal(password, *owner)
    if _is_common(password):
        raise InvalidValue(tr("the password is too common or too easy to guess"), _CHOOSE_ANOTHER)


def require_not_personal(password: str, *owner: str) -> None:
    """Raise InvalidValue if a password is nothing but the address or the name of its owner.

    Capitals, digits, spaces and punctuation make no difference.
    """
    parts = (text.partition(end)[0] for text in owner for end in ("@", "+"))  # with and without a tag
    if _letters(password) in {_letters(text) for text in (*owner, *parts)} - {""}:
        raise InvalidValue(tr("the password is your email address or your name"), _CHOOSE_ANOTHER)


def hash_password(password: str, *owner: str) -> str:
    """Return the hash of a new password. Raises InvalidValue if it cannot be a password, see `validate`.

    The library's parameters are RFC 9106's second choice (64 MiB, 3 passes), which is more than OWASP asks for.
    """
    from argon2 import PasswordHasher

    validate(password, *owner)
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


def _is_common(password: str) -> bool:
    """Return whether a password is a common one, or a pattern that is as easy to guess.

    Digits and signs before and after a common one make it no better, unless they are hard to guess themselves.
    """
    password = password.strip()
    if len(password) > _PART_LENGTH:
        password = _without_repetitions(password)
    if _is_weak(password):
        return True
    match = _WITHOUT_ENDS.fullmatch(password)
    assert match is not None
    before, core, after = password[: match.start(1)], match[1], password[match.end(1) :]
    return _is_one_pattern(core) and _is_weak(before + after)


def _is_weak(text: str) -> bool:
    parts = dict.fromkeys(text[start : start + _PART_LENGTH] for start in range(0, len(text), _PART_LENGTH))
    return all(_estimate(part)["score"] < _MIN_SCORE for part in list(parts)[:_MAX_PARTS])


def _is_one_pattern(text: str) -> bool:
    """Return whether a text is a single word, name or pattern that is easy to guess."""
    if not 0 < len(text) <= _PART_LENGTH:
        return False
    estimate = _estimate(text)
    patterns = [match["pattern"] for match in estimate["sequence"]]
    return estimate["score"] < _MIN_SCORE and len(patterns) == 1 and patterns != ["bruteforce"]


def _estimate(text: str) -> dict[str, Any]:
    """Return zxcvbn's estimate of a text.

    Its lists and rules (MIT License) know leaked passwords, words, names, dates, keyboard patterns, and repetitions of
    these.
    """
    from zxcvbn import zxcvbn

    estimate: dict[str, Any] = zxcvbn(text)
    return estimate


def _without_repetitions(text: str) -> str:
    """Return the shortest beginning of a text that gives the whole text if it is repeated. The end may be cut off."""
    return next((text[:length] for length in range(1, len(text)) if text.startswith(text[length:])), text)


def _letters(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalpha())


def _encoded(password: str) -> bytes:
    """Return the same bytes for the same characters, whatever Unicode form they have (NIST SP 800-63B, 3.1.1.2)."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
