"""A way into a pod's port in, a port on 127.0.0.1 that leads there out, for as long as the block lasts.

Several connections at once, each with a tunnel of its own: a client that pools connections needs no more
than this, and a tunnel that breaks ends its own connection only, which the client then makes again.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

Dial = Callable[[], Any]
"""Opens one tunnel and returns its socket; raises OSError where there is no way in at the moment."""

CHUNK = 1 << 16


@contextlib.contextmanager
def forwarded(dial: Dial) -> Iterator[int]:
    """Listen on a free port of 127.0.0.1 and give its number; every connection is one `dial()`."""
    forward = _Forward(dial)
    try:
        yield forward.port
    finally:
        forward.close()


class _Forward:
    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._open: set[Any] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        # accept() wakes now and then: closing a listener under it does not end it everywhere.
        self._listener.settimeout(0.2)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, name="forward", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for end in self._open:
                _shut(end)
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            # An accepted socket takes the listener's timeout over on some systems.
            client.settimeout(None)
            threading.Thread(target=self._serve, args=(client,), name="forwarded", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._kept(client):
            try:
                tunnel = self._dial()
            except OSError:
                return
            with self._kept(tunnel):
                back = threading.Thread(target=_pump, args=(tunnel, client), name="forwarded", daemon=True)
                back.start()
                _pump(client, tunnel)
                back.join()

    @contextlib.contextmanager
    def _kept(self, end: Any) -> Iterator[None]:
        """Have an end of a connection shut when the forward closes, and close it after the block."""
        with self._lock:
            self._open.add(end)
            if self._closed:
                _shut(end)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(end)
            with contextlib.suppress(OSError):
                end.close()


def _pump(source: Any, target: Any) -> None:
    """Copy until the source ends or either breaks; then both directions are over."""
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            target.sendall(data)
    _shut(source)
    _shut(target)


def _shut(end: Any) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
