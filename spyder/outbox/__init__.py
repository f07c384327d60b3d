"""Where reports go: dedup, batches, destinations."""
