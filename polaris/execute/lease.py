"""A run's name in, the sole right to carry it out, renewed while held.

The lease is one object in the store, taken and renewed by conditional puts. Somebody else's lease is
free when its object has not changed for its time to live on *our* clock (so clocks may differ), or
at once when its holder was a process of this machine that is gone.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from types import TracebackType
from typing import Any

from polaris.errors import PolarisError
from polaris.runtime import StopFlag, get_logger
from polaris.storage import Conflict, NotFound, Store

log = get_logger("lease")

TTL_S = 30.0
SHOWN_TTLS = 4
"""A lease not renewed for so many times to live belongs to a machine that is gone."""


class Lease:
    """`with Lease(...)` waits for the lease, holds it, and gives it back."""

    def __init__(self, store: Store, run: str, stop: StopFlag, *, ttl_s: float = TTL_S) -> None:
        self.store = store
        self.key = lease_key(run)
        self.stop = stop
        self.ttl_s = ttl_s
        self.lost = False
        self._etag: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        watch = _Watch(self.store, self.key)
        while not self._take(watch.expired(self.ttl_s)):
            self.stop.check()
            watch.look()
            time.sleep(0.5)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        try:
            info = self.store.head(self.key)
            if info and info.etag == self._etag:
                self.store.delete([self.key])
        except PolarisError as failure:
            log.warning("lease_not_given_back", key=self.key, reason=str(failure), expires_after_s=self.ttl_s)

    def _take(self, expired: str | None) -> bool:
        """Try to take the lease; `expired` is the etag of one that has run out."""
        try:
            info = self.store.head(self.key)
            if info is None:
                return self._put(None)
            if info.etag == expired or is_abandoned(self.store, self.key):
                return self._put(info.etag)
            return False
        except NotFound:
            return False

    def _put(self, etag: str | None) -> bool:
        """Write the lease in place of the one with this etag, or of none; tell whether it is ours now."""
        mine = _mine()
        try:
            self._etag = self.store.put(self.key, mine, if_absent=etag is None, if_match=etag)
            return True
        except Conflict:
            # A put whose answer got lost is sent again, and then conflicts with itself.
            info = self.store.head(self.key)
            if info is None or self.store.get(self.key) != mine:
                return False
            self._etag = info.etag
            return True

    def _renew(self) -> None:
        while not self._ended.wait(self.ttl_s / 3):
            try:
                ours = self._put(self._etag)
            except NotFound:
                ours = False
            except PolarisError as error:
                log.warning("lease_not_renewed", reason=str(error))
                continue
            if not ours:
                self.lost = True
                log.error("lease_lost", key=self.key)
                return


class _Watch:
    """Somebody's lease, and how long it has not changed on our clock."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key
        self._seen: str | None = None
        self._since = time.monotonic()

    def look(self) -> bool:
        """Tell whether the lease is there; say who holds it the first time."""
        info = self._store.head(self._key)
        if info and info.etag != self._seen:
            if self._seen is None:
                holder = _read(self._store, self._key)
                who = f"process {holder.get('pid')} on {holder.get('host')}"
                log.info("waiting", reason=f"another polaris run holds {self._key}", holder=who)
            self._seen, self._since = info.etag, time.monotonic()
        return info is not None

    def expired(self, ttl_s: float) -> str | None:
        """Return the etag of a lease that has not changed for so long, None for one that may be live."""
        return self._seen if time.monotonic() - self._since > ttl_s else None


def wait_until_free(store: Store, run: str, stop: StopFlag, *, ttl_s: float = TTL_S) -> None:
    """Wait while somebody who lives carries a run out, and take nothing; raise Stopped when told to stop."""
    watch = _Watch(store, lease_key(run))
    while not is_abandoned(store, lease_key(run)) and watch.look() and not watch.expired(ttl_s):
        stop.check()
        time.sleep(0.5)


def lease_key(run: str) -> str:
    """Return the key of a run's lease."""
    return f"runs/{run}/LEASE.json"


def is_held(store: Store, run: str) -> bool:
    """Tell whether somebody seems to be carrying the run out; for people, so clocks may be trusted."""
    holder = _read(store, lease_key(run))
    if not holder or is_abandoned(store, lease_key(run)):
        return False
    return time.time() - float(holder.get("renewed", 0)) < SHOWN_TTLS * TTL_S


def is_abandoned(store: Store, key: str) -> bool:
    """Tell whether the lease's holder was a process of this machine that no longer lives."""
    holder = _read(store, key)
    if holder.get("host") != socket.gethostname() or holder.get("boot") != _boot():
        return False
    return _started(int(holder.get("pid", 0))) != holder.get("started")


def _read(store: Store, key: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(store.get(key))
        return found
    except (NotFound, ValueError):
        return {}


def _mine() -> bytes:
    row = {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "renewed": time.time(),
        "nonce": uuid.uuid4().hex,
    }
    return json.dumps(row).encode()


def _boot() -> str:
    """Return an id of this machine's boot and process namespace; '' where it is not known."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Return when a process started, in the kernel's own ticks; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
            return None if fields[0] == "Z" else fields[19]
    except OSError:
        pass
    try:
        os.kill(pid, 0)
        return "alive" if not os.path.isdir("/proc/self") else None
    except (OSError, OverflowError):
        return None
