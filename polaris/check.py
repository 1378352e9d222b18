"""A configuration in, a list of what works and what does not out, each fault with its fix.

A check is a function from what is checked to findings; `CHECKS` names them in the order in which they
run; none needs what another one does, so that one run lists all that is wrong. Nothing of the run is
touched: the store check writes below `checks/` and takes it away again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from polaris.checks.content import check_plan
from polaris.checks.data import check_data
from polaris.checks.disk import check_disk
from polaris.checks.endpoints import check_endpoints
from polaris.checks.finding import CanI, Check, Finding, Subject, lines
from polaris.checks.forecast import check_forecast
from polaris.checks.gpus import check_gpus
from polaris.checks.judges import check_judges
from polaris.checks.lora import check_lora
from polaris.checks.memory import check_memory
from polaris.checks.parity import check_parity
from polaris.checks.permissions import check_permissions, of_orchestrator
from polaris.checks.store import check_store
from polaris.checks.versions import check_versions
from polaris.errors import PolarisError
from polaris.load import load

CHECKS: dict[str, Check] = {
    "versions": check_versions,
    "store": check_store,
    "permissions": check_permissions,
    "endpoints": check_endpoints,
    "judges": check_judges,
    "gpus": check_gpus,
    "lora": check_lora,
    "memory": check_memory,
    "disk": check_disk,
    "data": check_data,
    "parity": check_parity,
    "forecast": check_forecast,
    "plan": check_plan,
}
"""A check's name → the check, in the order in which they run: hashing a model's folder may take minutes."""


def check(
    path: Path,
    can_i: CanI | None = None,
    *,
    ask: bool = False,
    gpu_bytes: float | None = None,
    parity: bool = False,
) -> Iterator[Finding]:
    """Run every check; a configuration that cannot be read leaves only the cluster's permissions to ask for.

    Each line of an error is a finding of its own. `ask`, `gpu_bytes` and `parity` are a `Subject`'s.
    """
    try:
        config = load(path)
    except PolarisError as error:
        yield from lines("configuration", error)
        if can_i is not None:
            yield from _told("permissions", of_orchestrator(can_i))
        return
    yield Finding("ok", "configuration", f"run {config.run}: nothing wrong in {path}")
    subject = Subject(path, config, can_i, ask, gpu_bytes, parity)
    for what, one in CHECKS.items():
        yield from _told(what, one(subject))


def _told(what: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Pass findings on, and tell of the error that ends them as of one."""
    try:
        yield from findings
    except PolarisError as error:
        yield from lines(what, error)


def pod_namespace() -> str | None:
    """Return the namespace of the pod that this process runs in, None outside of one."""
    named = os.environ.get("POLARIS_NAMESPACE")
    try:
        return named or Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text().strip()
    except OSError:
        return None
