"""Decide what it means that a mail server refuses an email."""
