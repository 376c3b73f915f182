"""Read and write files of clients and suppressions: what their columns mean, and how they are encoded."""
