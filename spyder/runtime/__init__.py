"""Mechanisms without domain words: clock, threads, bounded queues, token buckets, caches, durable files."""
