"""Datagrams sent and received without giving up the interpreter lock.

The methods of a socket give the lock up around every call. For a call that never blocks that is a loss: with
hundreds of threads waiting, the lock comes back only after each of them had a turn, so that a thread which
receives for all of them gets one datagram a round. These two functions call the C library with the lock held; they
never block (MSG_DONTWAIT) and take some microseconds. Thread-safe.
"""

import ctypes
import os
import socket

_C = ctypes.PyDLL(None, use_errno=True)
_send = _C.send
_send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
_send.restype = ctypes.c_ssize_t
_recv = _C.recv
_recv.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_recv.restype = ctypes.c_ssize_t


class Receiver:
    """Receives into one buffer. Belongs to one thread."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._buffer = ctypes.create_string_buffer(size_bytes)

    def receive(self, fileno: int) -> bytes:
        """Return the next datagram that waits at a socket, cut at the size of the buffer.

        Raises:
            BlockingIOError: none waits.
            OSError: what the kernel has to say of the socket, such as a refused port.
        """
        count = _recv(fileno, self._buffer, self._size_bytes, socket.MSG_DONTWAIT)
        if count < 0:
            raise _last_error()
        return ctypes.string_at(self._buffer, count)


def send(fileno: int, datagram: bytes) -> None:
    """Send a datagram from a connected socket.

    Raises:
        BlockingIOError: the socket's buffer is full.
        OSError: what else the kernel has to say.
    """
    if _send(fileno, datagram, len(datagram), socket.MSG_DONTWAIT) < 0:
        raise _last_error()


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
