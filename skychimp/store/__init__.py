"""Keep everything in one SQLite file or a PostgreSQL database: transactions, the queue, the ledger and migrations."""
