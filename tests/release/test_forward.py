"""A local port that leads into a pod: here the tunnels are socket pairs, and break when told to."""

from __future__ import annotations

import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from polaris.release.forward import forwarded


class FakePod:
    """A FAKE way into a pod: each dial is a socket pair whose far end echoes until it is cut."""

    def __init__(self) -> None:
        self.ends: list[socket.socket] = []
        self.down = False

    def dial(self) -> socket.socket:
        if self.down:
            raise ConnectionRefusedError("no ready pod")
        near, far = socket.socketpair()
        self.ends.append(far)
        threading.Thread(target=self._echo, args=(far,), daemon=True).start()
        return near

    def _echo(self, far: socket.socket) -> None:
        with far:
            while data := far.recv(1024):
                far.sendall(data)


def asked(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        found = b""
        # A connection that nobody took ends by an end of file or a reset, as the kernel likes.
        with contextlib.suppress(ConnectionError):
            client.sendall(data)
            while len(found) < len(data) and (piece := client.recv(1 << 16)):
                found += piece
        return found


def test_several_connections_at_once_each_have_their_own_tunnel() -> None:
    pod = FakePod()
    messages = [bytes([i]) * (200_000 + i) for i in range(8)]
    with forwarded(pod.dial) as port, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda message: asked(port, message), messages)) == messages
    assert len(pod.ends) == 8


def test_a_dropped_tunnel_ends_its_connection_only() -> None:
    pod = FakePod()
    with forwarded(pod.dial) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"a")
        assert client.recv(1) == b"a"
        pod.ends[0].shutdown(socket.SHUT_RDWR)
        assert client.recv(1) == b""
        assert asked(port, b"again") == b"again"
        pod.down = True
        assert asked(port, b"nobody") == b""
        pod.down = False
        assert asked(port, b"back") == b"back"


def test_closing_ends_what_is_open_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    pod = FakePod()
    with forwarded(pod.dial) as port:
        client = socket.create_connection(("127.0.0.1", port), timeout=10)
        client.sendall(b"a")
        assert client.recv(1) == b"a"
    assert client.recv(1) == b""
    client.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
