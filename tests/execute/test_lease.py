"""One holder at a time, between threads and between processes; nobody waits for the dead."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from polaris.errors import Stopped, TransientError
from polaris.execute import lease as module
from polaris.execute.lease import Lease, is_abandoned, is_held, lease_key, wait_until_free
from polaris.runtime import StopFlag
from polaris.storage import Conflict, FileStore

KEY = lease_key("run")

HOLD = """
import sys, time
from pathlib import Path
from polaris.execute.lease import Lease
from polaris.runtime import StopFlag
from polaris.storage import FileStore
with Lease(FileStore(Path(sys.argv[1])), "run", StopFlag()):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "store")


def holder(store: FileStore) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def foreign(nonce: str = "1") -> bytes:
    """Return the lease of a process of another machine, of which nobody here can tell if it lives."""
    return json.dumps({"host": "far-away", "boot": "b", "pid": 1, "started": "1", "nonce": nonce}).encode()


def test_a_lease_is_held_and_given_back(store: FileStore) -> None:
    assert not is_held(store, "run")
    with Lease(store, "run", StopFlag()) as lease:
        assert is_held(store, "run")
        assert not is_held(store, "another")
        assert not lease.lost
    assert not is_held(store, "run")
    assert list(store.list("")) == []


def test_two_processes_never_hold_it_at_once(store: FileStore) -> None:
    process = holder(store)
    assert process.stdin is not None
    assert process.stdout is not None
    with process, process.stdout, process.stdin:
        assert process.stdout.readline() == "held\n"
        assert is_held(store, "run")
        entered = threading.Event()

        def wait() -> None:
            with Lease(store, "run", StopFlag()):
                entered.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not entered.wait(1.2), "two hold it at once"
        process.stdin.close()
        assert entered.wait(5), "it was given back, and nobody took it"
        waiting.join()
        assert process.wait(10) == 0


def test_the_lease_of_a_killed_process_is_taken_over_at_once(store: FileStore) -> None:
    process = holder(store)
    assert process.stdin is not None
    assert process.stdout is not None
    with process, process.stdout, process.stdin:
        assert process.stdout.readline() == "held\n"
        process.kill()
        process.wait()
    assert store.head(KEY) is not None
    assert is_abandoned(store, KEY)
    assert not is_held(store, "run")
    begun = time.monotonic()
    with Lease(store, "run", StopFlag(), ttl_s=60):
        assert time.monotonic() - begun < 0.5


def test_of_another_machine_it_expires_when_it_stops_changing(store: FileStore) -> None:
    store.put(KEY, foreign())
    assert not is_abandoned(store, KEY)
    begun = time.monotonic()
    with Lease(store, "run", StopFlag(), ttl_s=1.0):
        waited = time.monotonic() - begun
    assert 1.0 < waited < 5


def test_while_it_changes_it_does_not_expire(store: FileStore) -> None:
    etag = store.put(KEY, foreign())
    ended, entered = threading.Event(), threading.Event()

    def renew() -> None:
        nonlocal etag
        number = 0
        while not ended.wait(0.3):
            number += 1
            etag = store.put(KEY, foreign(str(number)), if_match=etag)

    def take() -> None:
        with Lease(store, "run", StopFlag(), ttl_s=1.2):
            entered.set()

    threads = [threading.Thread(target=renew), threading.Thread(target=take)]
    for thread in threads:
        thread.start()
    assert not entered.wait(3), "a lease that is renewed was taken away"
    ended.set()
    assert entered.wait(6)
    for thread in threads:
        thread.join()


def test_the_holder_renews_it(store: FileStore) -> None:
    with Lease(store, "run", StopFlag(), ttl_s=0.3) as lease:
        seen = set()
        for _ in range(8):
            info = store.head(KEY)
            assert info is not None
            seen.add(info.etag)
            time.sleep(0.1)
        assert len(seen) > 2
        assert not lease.lost


def test_a_lost_lease_is_noticed_and_not_deleted(store: FileStore) -> None:
    with Lease(store, "run", StopFlag(), ttl_s=0.3) as lease:
        store.put(KEY, foreign())
        until = time.monotonic() + 5
        while not lease.lost and time.monotonic() < until:
            time.sleep(0.05)
        assert lease.lost
    assert store.get(KEY) == foreign(), "somebody else's lease is not ours to delete"


def test_a_lease_lost_without_notice_is_not_deleted_either(store: FileStore) -> None:
    with Lease(store, "run", StopFlag(), ttl_s=60) as lease:
        store.put(KEY, foreign())
        assert not lease.lost
    assert store.get(KEY) == foreign()


def test_a_put_whose_answer_was_lost_still_counts(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put = store.put

    def put_twice(key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        put(key, data, if_absent=if_absent, if_match=if_match)
        raise Conflict(key)

    monkeypatch.setattr(store, "put", put_twice)
    with Lease(store, "run", StopFlag(), ttl_s=0.3) as lease:
        time.sleep(0.5)
        assert not lease.lost
    assert store.head(KEY) is None


def test_a_store_that_is_down_for_a_moment_loses_nothing(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object, **__: object) -> str:
        raise TransientError("down")

    with Lease(store, "run", StopFlag(), ttl_s=0.3) as lease:
        with monkeypatch.context() as patched:
            patched.setattr(store, "put", down)
            time.sleep(0.4)
        time.sleep(0.2)
        assert not lease.lost
        monkeypatch.setattr(store, "delete", down)
    assert store.head(KEY) is not None, "it could not be given back: it expires, and the run ended well"


def test_who_waits_can_be_stopped(store: FileStore) -> None:
    store.put(KEY, foreign())
    stop = StopFlag()
    stop.signal = 15
    with pytest.raises(Stopped), Lease(store, "run", stop):
        pass
    assert store.get(KEY) == foreign()


def test_who_only_looks_waits_for_the_living_and_takes_nothing(
    store: FileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_until_free(store, "run", StopFlag())
    process = holder(store)
    assert process.stdin is not None
    assert process.stdout is not None
    with process, process.stdout, process.stdin:
        assert process.stdout.readline() == "held\n"
        free, stop = threading.Event(), StopFlag()
        waiting = threading.Thread(target=lambda: (wait_until_free(store, "run", stop), free.set()))
        waiting.start()
        assert not free.wait(1.2)
        told = StopFlag()
        told.signal = 15
        with pytest.raises(Stopped):
            wait_until_free(store, "run", told)
        process.stdin.close()
        assert free.wait(5)
        waiting.join()
    assert store.head(KEY) is None
    assert capsys.readouterr().out.count(f"process {process.pid} on ") == 2, "once for each who waits"
    store.put(KEY, foreign())
    wait_until_free(store, "run", StopFlag(), ttl_s=0.2)
    assert store.get(KEY) == foreign()


def test_a_reused_process_id_is_not_the_holder(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = json.loads(module._mine())
    store.put(KEY, json.dumps(mine).encode())
    assert not is_abandoned(store, KEY)
    store.put(KEY, json.dumps({**mine, "started": "12"}).encode())
    assert is_abandoned(store, KEY)
    store.put(KEY, json.dumps({**mine, "started": "12", "boot": "another"}).encode())
    assert not is_abandoned(store, KEY), "another container's processes cannot be seen from here"
    store.put(KEY, b"no JSON")
    assert not is_abandoned(store, KEY)
