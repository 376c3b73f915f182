"""Decide when mailings are due, and open what is due."""
