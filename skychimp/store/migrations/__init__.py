"""Bring the tables of an old store to the newest revision. Alembic runs what is in `versions`."""
