"""What the store has of clients: their tags, who is in an audience, and who must not get email."""
