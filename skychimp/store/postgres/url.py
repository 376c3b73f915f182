"""Say how to connect to a PostgreSQL server. Imports nothing slow, as shell completion needs it too."""

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


def connect_arguments(url: str) -> dict[str, Any]:
    """Return the parameters of libpq that a URL does not have.

    With them we notice soon that the server is gone, and check that it is the right one. A server on this machine needs
    no certificate. What libpq's own variables say wins, too.
    """
    arguments: dict[str, Any] = {
        "application_name": "skychimp",
        "connect_timeout": 10,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
    query = parse_qs(urlsplit(url).query)
    if "sslmode" not in query and "PGSSLMODE" not in os.environ and not _is_local(url):
        arguments["sslmode"] = "verify-full"
        if "sslrootcert" not in query and "PGSSLROOTCERT" not in os.environ:
            own = Path.home() / ".postgresql/root.crt"
            arguments["sslrootcert"] = str(own) if own.exists() else "system"
    return {name: value for name, value in arguments.items() if name not in query}


def _is_local(url: str) -> bool:
    """Return whether every host that a URL or libpq's variables name is this machine, by a socket or loopback."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    if "service" in query or "PGSERVICE" in os.environ:
        return False  # it may name any host
    named = [parts.netloc.rpartition("@")[2], *query.get("host", ()), *query.get("hostaddr", ())]
    named += [os.environ.get("PGHOST", ""), os.environ.get("PGHOSTADDR", "")]
    return all(_is_local_host(host) for hosts in named for host in hosts.split(","))


def _is_local_host(host: str) -> bool:
    if host in ("", "localhost") or host.startswith(("/", "@", "%2F")):
        return True
    address = host.partition("]")[0].lstrip("[") if host.startswith("[") else host
    for candidate in (address, address.rpartition(":")[0]):
        try:
            return ip_address(candidate).is_loopback
        except ValueError:
            if candidate == "localhost":
                return True
    return False
