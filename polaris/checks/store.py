"""A store in, whether each of its operations does what the rest relies on out."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

from polaris.checks.finding import Finding, Subject, failed
from polaris.storage import Conflict, NotFound, Store, open_store


def check_store(subject: Subject) -> Iterator[Finding]:
    """Write, read, list and delete one small object, and see that a second conditional put is refused."""
    store = open_store(subject.config.store)
    key = f"checks/{uuid.uuid4().hex}"
    where = f"{store.url}/{key}"
    data = uuid.uuid4().hex.encode()
    etag = store.put(key, data, if_absent=True)
    try:
        yield _exercise(store, key, data, etag)
    finally:
        store.delete([key])
    if store.head(key) is not None:
        yield failed("store", f"{where} is still there after its deletion", "allow s3:DeleteObject")


def _exercise(store: Store, key: str, data: bytes, etag: str) -> Finding:
    """Return what became of an object that has been written with this data and got this etag."""
    where = f"{store.url}/{key}"
    conditions: dict[str, dict[str, Any]] = {
        "If-None-Match": {"if_absent": True},
        "If-Match": {"if_match": f'"{"0" * 32}"'},
    }
    for header, condition in conditions.items():
        with contextlib.suppress(Conflict):
            store.put(key, b"a second writer", **condition)
            fix = "use a store with conditional puts, or a newer version of this one"
            return failed("store", f"{where}: a put with {header} was carried out that must be refused", fix)
    fix = "use a store that is consistent after each write"
    try:
        store.put(key, data, if_match=etag)
        found = store.get(key)
    except (NotFound, Conflict):
        return failed("store", f"{where} is not found right after it was written", fix)
    if found != data:
        return failed("store", f"{where} reads back otherwise than it was written", fix)
    if key not in [info.key for info in store.list("checks/")]:
        return failed("store", f"{where} is not listed below checks/", fix)
    return Finding("ok", "store", f"{store.url}: put, conditional put, get, list and delete work")
