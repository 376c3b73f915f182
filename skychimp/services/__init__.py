"""What a command means, one file a noun."""
