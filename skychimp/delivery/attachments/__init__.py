"""Attach files and inline pictures to emails."""
