"""Manage, import and export clients."""
