"""What may be done: scope, addresses, robots verdicts, pacing."""
