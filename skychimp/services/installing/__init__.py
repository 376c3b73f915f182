"""Set up the services of this installation: systemd units or a line of the crontab."""
