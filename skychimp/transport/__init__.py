"""Where mail goes: an SMTP relay, or a Maildir. Knows nothing of the store."""
