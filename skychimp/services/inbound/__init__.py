"""Process mail that comes back: bounces, complaints and unsubscribe requests."""
