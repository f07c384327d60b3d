"""Where hosts come from: domain files now, the inbox and queues later."""
