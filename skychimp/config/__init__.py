"""Define, find, read and check the settings."""
