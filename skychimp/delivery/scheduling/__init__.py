"""When mailings are due."""
