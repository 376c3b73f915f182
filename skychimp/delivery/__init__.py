"""How mail goes out: what is due, what is said, what became of it."""
