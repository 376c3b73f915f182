"""Reports, logs and the home page."""
