"""What the lab's servers saw, so that tests can count at the server.

Written by the servers and read by the control port, all on the lab's one thread.
"""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Counts since the start, or since they were cleared."""

    dns_udp: Counter[str] = field(default_factory=Counter)
    """Questions by `name TYPE`, the name in lower case."""
    dns_tcp: Counter[str] = field(default_factory=Counter)
    connections: Counter[str] = field(default_factory=Counter)
    """Accepted TCP connections by `https` or `http`."""
    hellos: Counter[str] = field(default_factory=Counter)
    """TLS handshakes that a client began, by server name (empty: none was sent)."""
    handshakes: Counter[str] = field(default_factory=Counter)
    """TLS handshakes that were completed, by server name."""
    requests: Counter[str] = field(default_factory=Counter)
    """HTTP requests by `scheme://host/path`, the host without its port."""

    def as_json(self) -> dict[str, dict[str, int]]:
        """Return a copy of all counts."""
        return {name: dict(getattr(self, name)) for name in self.__slots__}

    def clear(self) -> None:
        """Begin anew."""
        for name in self.__slots__:
            getattr(self, name).clear()
