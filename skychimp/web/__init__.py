"""The small web server: unsubscribe links, preferences, health and metrics. It needs the extra `web`."""
