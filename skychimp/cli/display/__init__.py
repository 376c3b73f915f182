"""Turn records into what a user sees: values, tables and progress."""
