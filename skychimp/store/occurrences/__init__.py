"""Open occurrences, choose what they send, and finish them."""
