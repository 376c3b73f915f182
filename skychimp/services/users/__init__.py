"""Manage users and personal data."""
