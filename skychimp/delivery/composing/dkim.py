"""Sign emails with DKIM (RFC 6376), with RSA keys (RFC 8301) and Ed25519 keys (RFC 8463); pure.

Header and body are hashed in the canonical form "relaxed". So a mail server may fold lines again, and change white
space.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from skychimp.errors import InvalidValue
from skychimp.translation import tr

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    PrivateKey = RSAPrivateKey | Ed25519PrivateKey

SIGNED_HEADERS = (
    "From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type", "Content-Transfer-Encoding",
    "List-Unsubscribe", "List-Unsubscribe-Post", "List-Id", "Feedback-ID", "Reply-To", "Auto-Submitted",
)  # fmt: skip
"""The headers that are signed where an email has them. RFC 8058, section 4, wants both List-Unsubscribe headers."""

OVERSIGNED = b"from"
"""Signed once more than it is there, so that nobody can add another one (RFC 6376, section 8.15)."""

MIN_RSA_BITS, MAX_RSA_BITS = 2048, 4096
"""Verifiers accept these sizes (RFC 8301, section 3.2). Smaller keys are no longer safe."""

_LINE_LENGTH = 72
_WHITE_SPACE = re.compile(rb"[ \t]+")
_LINE_END_SPACE = re.compile(rb"[ \t]+(?=\r\n)")
_HEADER_END = re.compile(rb"\r\n(?![ \t])")


class DkimKey(NamedTuple):
    """A private key, and where its public key is published: SELECTOR._domainkey.DOMAIN."""

    domain: str
    selector: str
    private: "PrivateKey"

    @property
    def is_rsa(self) -> bool:
        """Whether this is an RSA key, which takes several times as long as Ed25519."""
        return hasattr(self.private, "key_size")


class UnfinishedSignature(NamedTuple):
    """A DKIM-Signature header without its signature: the `header` up to it, and the `text` to sign."""

    key: DkimKey
    header: bytes
    text: bytes

    def finish(self) -> bytes:
        """Return the whole header with its line end. Takes long with RSA, and may run in a thread."""
        return self.header + _folded(_sign(self.key, self.text)) + b"\r\n"

    @property
    def size(self) -> int:
        """The number of bytes that `finish` will return."""
        signature_size = self.key.private.key_size // 8 if self.key.is_rsa else 64  # type: ignore[union-attr]
        return len(self.header) + len(_folded(bytes(signature_size))) + 2


def start_signing(
    data: bytes, keys: Sequence[DkimKey], *, now: int, tail: Sequence[bytes] = ()
) -> list[UnfinishedSignature]:
    """Return what each key has to sign of an email with CRLF line ends. `now` is in seconds since 1970.

    The pieces of `tail` follow `data`. Each begins with a new line, and the last one does not end with empty lines.
    """
    head, _, body = data.partition(b"\r\n\r\n")
    names, signed = _signed_headers(head)
    body_hash = _hash_pieces(body, tail) if tail else hash_body(body)
    unfinished = []
    for key in keys:
        header = _start_of(key.domain, key.selector, key.is_rsa, names) % (now, body_hash)
        unfinished.append(UnfinishedSignature(key, header, signed + canonical_header(header)))
    return unfinished


def sign(data: bytes, keys: Sequence[DkimKey], *, now: int) -> bytes:
    """Return the DKIM-Signature headers of an email, one for each key, to be written before its first line."""
    return b"".join(unfinished.finish() for unfinished in start_signing(data, keys, now=now))


@lru_cache(maxsize=8)  # the body of many mailings is the same for all clients
def hash_body(body: bytes) -> bytes:
    """Return the hash of a body as it is written in a signature."""
    return base64.b64encode(hashlib.sha256(canonical_body(body)).digest())


def _hash_pieces(body: bytes, tail: Sequence[bytes]) -> bytes:
    """Return the hash of a body and what follows it, without joining them."""
    hashed = hashlib.sha256(_canonical_lines(body))
    for piece in tail:
        hashed.update(_canonical_lines(piece))
    return base64.b64encode(hashed.digest())


def canonical_header(header: bytes) -> bytes:
    """Return a header, given without its line end, in the relaxed form (RFC 6376, section 3.4.2), without one."""
    name, _, value = header.partition(b":")
    unfolded = _WHITE_SPACE.sub(b" ", value.replace(b"\r\n", b""))
    return name.rstrip(b" \t").lower() + b":" + unfolded.strip(b" ")


def canonical_body(body: bytes) -> bytes:
    """Return a body in the relaxed form (RFC 6376, section 3.4.4): without needless white space and empty lines."""
    if body.endswith(b" "):
        body += b"\r\n"
    body = _canonical_lines(body).rstrip(b"\r\n")
    return body + b"\r\n" if body else b""


def _canonical_lines(lines: bytes) -> bytes:
    """Return whole lines of a body in the relaxed form, with the empty lines at the end."""
    if b" \r\n" in lines or b"\t" in lines or b"  " in lines:
        lines = _WHITE_SPACE.sub(b" ", _LINE_END_SPACE.sub(b"", lines))
    return lines


def load_key(pem: bytes, domain: str, selector: str) -> DkimKey:
    """Return the private key in a PEM file. Raises InvalidValue if it is of another kind or cannot be used."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(pem, password=None)
    except TypeError:
        raise InvalidValue(tr("the private key has a passphrase"), _MAKE_KEY) from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidValue(tr("it is not a private key in PEM format"), _MAKE_KEY) from None
    if isinstance(private, RSAPrivateKey):
        if not MIN_RSA_BITS <= private.key_size <= MAX_RSA_BITS:
            limits = f"from {MIN_RSA_BITS:,} to {MAX_RSA_BITS:,} bits are allowed"
            raise InvalidValue(
                tr("the RSA key has {key_size:,} bits: {limits}", key_size=private.key_size, limits=limits), _MAKE_KEY
            )
        return DkimKey(domain, selector, private)
    if isinstance(private, Ed25519PrivateKey):
        return DkimKey(domain, selector, private)
    raise InvalidValue(tr("the private key is neither RSA nor Ed25519"), _MAKE_KEY)


def make_key(*, rsa: bool) -> "PrivateKey":
    """Return a new private key."""
    if rsa:
        from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

        return generate_private_key(public_exponent=65537, key_size=MIN_RSA_BITS)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate()


def to_pem(private: "PrivateKey") -> bytes:
    """Return the text of a key file."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class KeyRecord(NamedTuple):
    """The TXT record of a public key: its name, and its text, which is longer than one string of DNS for RSA."""

    name: str
    text: str

    @property
    def strings(self) -> list[str]:
        """The text in strings of at most 255 bytes (RFC 1035, section 3.3)."""
        return [self.text[start : start + 255] for start in range(0, len(self.text), 255)]


def key_record(key: DkimKey) -> KeyRecord:
    """Return the DNS record with which others verify the signatures of a key (RFC 6376, section 3.6.1)."""
    kind = "rsa" if key.is_rsa else "ed25519"
    return KeyRecord(f"{key.selector}._domainkey.{key.domain}", f"v=DKIM1; k={kind}; p={public_key(key)}")


def public_key(key: DkimKey) -> str:
    """Return the public key as it is published: in base64, an Ed25519 key without its ASN.1 (RFC 8463, section 4)."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = key.private.public_key()
    if key.is_rsa:
        data = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    else:
        data = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return base64.b64encode(data).decode()


_MAKE_KEY = tr('make a key with "skychimp dkim keygen"')
_SIGNED_NAMES = tuple(name.lower().encode() for name in SIGNED_HEADERS)


def _signed_headers(head: bytes) -> tuple[tuple[bytes, ...], bytes]:
    """Return the names of the signed headers, and these headers in their canonical form, in the same order.

    Of several with the same name the last one comes first (RFC 6376, section 5.4.2).
    """
    found: dict[bytes, list[bytes]] = {}
    for header in reversed(_HEADER_END.split(head)):
        canonical = canonical_header(header)
        found.setdefault(canonical.partition(b":")[0], []).append(canonical)
    names = [name for name in _SIGNED_NAMES for _ in found.get(name, ())]
    headers = [header for name in _SIGNED_NAMES for header in found.get(name, ())]
    return (OVERSIGNED, *names), b"".join(header + b"\r\n" for header in headers)


@lru_cache(maxsize=64)  # the emails of a mailing have the same headers
def _start_of(domain: str, selector: str, is_rsa: bool, names: tuple[bytes, ...]) -> bytes:
    """Return a DKIM-Signature header up to its signature, with places for the time and the body's hash."""
    algorithm = "rsa-sha256" if is_rsa else "ed25519-sha256"
    lines, line = [], b" h="
    for number, name in enumerate(names):
        part = name + (b":" if number < len(names) - 1 else b";")
        if len(line) + len(part) > _LINE_LENGTH:
            lines.append(line)
            line = b"  "
        line += part
    start = f"DKIM-Signature: v=1; a={algorithm}; c=relaxed/relaxed;\r\n d={domain};\r\n s={selector};"
    return b"%b t=%%d;\r\n%b\r\n bh=%%b;\r\n b=" % (start.encode("ascii"), b"\r\n".join([*lines, line]))


def _sign(key: DkimKey, text: bytes) -> bytes:
    if not key.is_rsa:
        return key.private.sign(hashlib.sha256(text).digest())  # type: ignore[call-arg]  # RFC 8463, section 3
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    return key.private.sign(text, PKCS1v15(), SHA256())  # type: ignore[call-arg]


def _folded(signature: bytes) -> bytes:
    encoded = base64.b64encode(signature)
    lines = [encoded[start : start + _LINE_LENGTH] for start in range(0, len(encoded), _LINE_LENGTH)]
    return b"\r\n  ".join(lines)
