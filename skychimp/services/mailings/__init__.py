"""Manage mailings and forecast what they will send."""
