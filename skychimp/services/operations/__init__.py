"""Checks, backups and upkeep of an installation."""
