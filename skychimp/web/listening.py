"""Open the socket that the web server listens on."""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from skychimp.config.settings import WebSettings
from skychimp.errors import ConfigError, Conflict
from skychimp.translation import tr

_UMASK = 0o117
"""A Unix socket has the mode 0660, so that a proxy in the group of its folder can use it."""
BACKLOG = 512


@contextmanager
def listen(settings: WebSettings) -> Iterator[socket.socket]:
    """Listen on the address of the settings, and remove a Unix socket at the end.

    Raises Conflict if somebody else listens there, and ConfigError if it cannot be used.
    """
    address = settings.address
    with (
        _naming_errors(settings.listen),
        _new_socket(address) as opened,
    ):
        if isinstance(address, str):
            _remove_stale(address)
            _bind_unix(opened, address)
        else:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
        opened.listen(BACKLOG)
        created = os.stat(address) if isinstance(address, str) else None
        try:
            yield opened
        finally:
            if isinstance(address, str) and created is not None:
                _remove_own(address, created)


def address_of(opened: socket.socket) -> str:
    """Return the address of an open socket as web.listen has it. The system chooses the port if that is 0."""
    if opened.family == socket.AF_UNIX:
        return f"unix:{opened.getsockname()}"
    host, port, *_ = opened.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _new_socket(address: tuple[str, int] | str) -> socket.socket:
    if isinstance(address, str):
        return socket.socket(socket.AF_UNIX)
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    # asyncio sends small parts at once only over a socket with this protocol. Otherwise a request takes 40 ms.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)


def _bind_unix(opened: socket.socket, path: str) -> None:
    before = os.umask(_UMASK)
    try:
        opened.bind(path)
    finally:
        os.umask(before)


def _remove_stale(path: str) -> None:
    """Remove a socket that a server of ours has left. Anything else stays, and binding to it fails."""
    with suppress(FileNotFoundError):
        status = os.lstat(path)
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
            return
        with socket.socket(socket.AF_UNIX) as probe:
            is_stale = probe.connect_ex(path) == errno.ECONNREFUSED
        if is_stale:
            os.unlink(path)


def _remove_own(path: str, created: os.stat_result) -> None:
    """Remove our socket, but not the one of a server that was started since."""
    with suppress(OSError):
        if os.path.samestat(os.lstat(path), created):
            os.unlink(path)


@contextmanager
def _naming_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            hint = tr("stop the other server, or set web.listen to another address")
            raise Conflict(tr("{name} is already in use", name=name), hint) from None
        hint = tr("set web.listen to an address of this machine, such as 127.0.0.1:8025")
        if error.errno in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR):
            hint = tr("use a folder that exists and that you can write to, and a port above 1023")
        raise ConfigError(tr("cannot listen on {name}: {strerror}", name=name, strerror=error.strerror), hint) from None
