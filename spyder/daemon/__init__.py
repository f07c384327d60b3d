"""The composition root, workers and their supervision, lifecycle."""
