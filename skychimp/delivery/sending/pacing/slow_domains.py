"""Find the recipient domains whose emails the mail server answers slowly, so that they do not hold up the others.

A mail server that asks each recipient's own server before it replies (a callout) is as slow as that server.
"""

from collections import Counter

SLOW_S = 2.0
SLOW_IN_A_ROW = 2
"""After this number of slow emails, and no quick one between them, a domain is slow."""
_MOST_QUICK = 20


class SlowDomains:
    """The domains whose last emails took long. While nearly all emails take long, no domain is slow."""

    def __init__(self) -> None:
        self.were_found = False
        """Whether there was a slow domain at any time."""
        self._in_a_row: Counter[str] = Counter()
        self._quick = 0
        """One more for each quick email and one less for each slow one, from 0 to 20."""

    def note(self, address: str, took_s: float) -> None:
        """Note how many seconds the email to an address took, with all replies to it."""
        if took_s < SLOW_S:
            if self._quick < _MOST_QUICK:
                self._quick += 1
            if self._in_a_row:
                self._in_a_row.pop(_domain(address), None)
        else:
            self._quick = max(0, self._quick - 1)
            self._in_a_row[_domain(address)] += 1
            self.were_found |= self._in_a_row[_domain(address)] >= SLOW_IN_A_ROW

    def has(self, address: str) -> bool:
        """Return whether the domain of an address is slow."""
        return self._quick > 0 and self._in_a_row[_domain(address)] >= SLOW_IN_A_ROW


def _domain(address: str) -> str:
    return address.rpartition("@")[2].lower()
