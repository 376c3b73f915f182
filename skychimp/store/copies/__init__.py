"""Copy a store to a backup or another database, and check what comes from a copy."""
