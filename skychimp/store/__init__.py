"""Keep everything in one SQLite file: transactions, the queue, the ledger and their migrations."""
