"""Tell who asks, and mask who is asked about; pure."""

from collections.abc import Sequence
from ipaddress import ip_address

Headers = Sequence[tuple[bytes, bytes]]

_OF_PROXY = (b"x-forwarded-for", b"forwarded", b"x-real-ip", b"via")
LOCAL = "local"


def client_address(peer: str | None, headers: Headers) -> str:
    """Return the IP address of whoever asks, LOCAL if a process on this machine asks by a Unix socket.

    `peer` is the IP address of the connection, None for a Unix socket. Only a proxy on this machine is believed. It
    adds the address that it was asked by to the end of X-Forwarded-For. What stands before may be invented.
    """
    if not _is_local(peer):
        return peer or LOCAL
    forwarded = [value for name, value in headers if name == b"x-forwarded-for"]
    last = forwarded[-1].decode("latin-1").rpartition(",")[2].strip() if forwarded else ""
    return last if _is_ip(last) else peer or LOCAL


def is_direct(peer: str | None, headers: Headers) -> bool:
    """Return whether a process on this machine asks for itself, not a proxy for somebody else."""
    return _is_local(peer) and not any(name in _OF_PROXY for name, _ in headers)


def masked(address: str) -> str:
    """Return an email address of which only its owner knows which one it is: `a***@e***.org`."""
    local, _, domain = address.rpartition("@")
    name, _, top = domain.rpartition(".")
    return f"{local[:1]}***@{name[:1]}***.{top}" if name else f"{local[:1]}***@{domain[:1]}***"


def _is_local(peer: str | None) -> bool:
    return peer is None or (_is_ip(peer) and ip_address(peer).is_loopback)


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
