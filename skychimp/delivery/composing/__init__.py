"""Turn a message into the bytes of an email."""
