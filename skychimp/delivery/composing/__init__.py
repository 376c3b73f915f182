"""Compose emails from messages."""
