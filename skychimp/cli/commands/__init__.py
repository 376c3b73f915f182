"""One module per command or group."""
