"""Options that several commands have in common, and how their values are read."""
