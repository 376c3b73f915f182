"""What many tests share: stores, servers and the command."""
