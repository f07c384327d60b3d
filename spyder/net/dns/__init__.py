"""The stub resolver: `wire` reads and writes messages, `exchange` moves them, `resolver` decides."""
