"""Let persons unsubscribe and choose what they get, by the token of an email that they got. They need no login."""
