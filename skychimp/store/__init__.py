"""Where everything is kept. Knows nothing of the transport."""
