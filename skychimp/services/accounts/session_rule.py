"""Define when a login session is valid, for the commands and for shell completion alike.

Nothing slow is imported here: a shell waits for the completion at each Tab, and importing SQLAlchemy alone takes longer
than a person wants to wait.
"""

import hashlib
from datetime import datetime, timedelta

LIFETIME = timedelta(days=30)
"""How long a session lasts after its login."""
IDLE_LIMIT = timedelta(days=14)
"""How long a session lasts after its last use."""

FIND_USER = """
    SELECT "user".id, "user".email, "user".role, login.id, login.seen_at
    FROM login JOIN "user" ON "user".id = login.user_id
    WHERE login.token_hash = :token_hash AND login.expires_at > :now AND login.seen_at > :idle_since
    AND "user".blocked_at IS NULL AND "user".verified_at IS NOT NULL
"""
"""The SQL for the user of a valid session, and the session itself; `parameters` has its parameters."""


def parameters(token: str, now: datetime) -> dict[str, str | datetime]:
    """Return the parameters of FIND_USER for a session's token at a time."""
    return {"token_hash": hash_token(token), "now": now, "idle_since": now - IDLE_LIMIT}


def hash_token(token: str) -> str:
    """Return the hash of a session's token. The store has only the hash."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()
