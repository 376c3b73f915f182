"""Manage messages."""
