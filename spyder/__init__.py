"""spyder: maps what a host name is tied to, politely, and never loses a result."""

__version__ = "0.1.0"
