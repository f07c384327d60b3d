"""The settings: one typed, frozen tree, read once, at the edge.

`load` is called by the commands before any thread starts, and `daemon/wiring.py` hands single values on; components
take arguments, never this tree. From the bottom up: `problems.py` (what is wrong, in words), `values.py` (what a
value may be), `tree.py` (the keys and their defaults), `description.py` (what the tree says of itself),
`document.py` (YAML), `reading.py` (the sources and which wins).
"""

from spyder.settings.description import KeyInfo, describe, redacted, sections
from spyder.settings.problems import MAX_PROBLEMS, BadSettings, Problem
from spyder.settings.reading import MAX_FILE_BYTES, Loaded, load
from spyder.settings.tree import (
    Api,
    ApiKey,
    Batching,
    Crawling,
    Dedup,
    Dns,
    HttpClient,
    Inbox,
    Logging,
    Output,
    RedisServers,
    Robots,
    Settings,
    Shutdown,
    Telemetry,
)
from spyder.settings.values import Endpoint, bytes_of, duration_text, seconds_of, size_text

__all__ = [
    "MAX_FILE_BYTES",
    "MAX_PROBLEMS",
    "Api",
    "ApiKey",
    "BadSettings",
    "Batching",
    "Crawling",
    "Dedup",
    "Dns",
    "Endpoint",
    "HttpClient",
    "Inbox",
    "KeyInfo",
    "Loaded",
    "Logging",
    "Output",
    "Problem",
    "RedisServers",
    "Robots",
    "Settings",
    "Shutdown",
    "Telemetry",
    "bytes_of",
    "describe",
    "duration_text",
    "load",
    "redacted",
    "seconds_of",
    "sections",
    "size_text",
]
