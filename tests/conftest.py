"""What holds for every test: nothing leaves the machine, and no thread outlives its test."""

import ipaddress
import socket
import sys
import threading
from collections.abc import Iterator

import pytest

_CONNECTING = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})


def _is_local(address: object) -> bool:
    if not isinstance(address, tuple):
        return True  # a unix socket or a netlink socket
    try:
        return ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback or address[0] == "0.0.0.0"
    except ValueError:
        return address[0] == "localhost"


def _guard(event: str, arguments: tuple[object, ...]) -> None:
    if event in _CONNECTING:
        sock, address = arguments[0], arguments[1]
        if isinstance(sock, socket.socket) and sock.family == socket.AF_UNIX:
            return
        if address and not _is_local(address):
            raise RuntimeError(f"a test tried to reach {address}: tests never leave this machine")
    elif event == "socket.getaddrinfo" and arguments[0] not in ("localhost", None):
        host = arguments[0].decode() if isinstance(arguments[0], bytes) else str(arguments[0])
        if not _is_local((host,)):
            raise RuntimeError(f"a test tried to look up {host}: tests never ask the system's resolver")


sys.addaudithook(_guard)


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """Fail a test that leaves a thread behind."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    leaked = [thread.name for thread in set(threading.enumerate()) - before]
    assert not leaked, f"threads left behind: {leaked}"
