"""Send no faster than the settings and the mail server allow."""
