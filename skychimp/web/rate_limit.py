"""Limit how many requests each address may make, by a token bucket; pure."""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

RATE = 50.0
"""Requests per second of one address. Mailbox providers send the one-click requests of many persons from few."""
BURST = 500
MOST_ADDRESSES = 20_000

_NETWORK_BITS = 64
"""Whoever has one IPv6 address has a network of that size."""


class RateLimit:
    """Counts the requests of each address. Those that have asked the longest ago are forgotten first."""

    def __init__(self, rate: float = RATE, burst: int = BURST) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, address: str, now_s: float) -> bool:
        """Return whether a request may be answered now, and count it. `now_s` is from a monotonic clock."""
        key = _network(address)
        left, at = self._buckets.pop(key, (float(self._burst), now_s))
        left = min(self._burst, left + (now_s - at) * self._rate)
        is_allowed = left >= 1
        self._buckets[key] = (left - is_allowed, now_s)
        if len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        return is_allowed


def _network(address: str) -> str:
    try:
        parsed = ip_address(address)
    except ValueError:  # a Unix socket has none
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(int(parsed) >> _NETWORK_BITS)
