"""A way to ask what a pod may do in, whether the orchestrator may do its work and no more out."""

from __future__ import annotations

from collections.abc import Iterator

from polaris.checks.finding import CanI, Finding, Subject, failed

ORCHESTRATOR_MAY: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("batch", "jobs", "", ("create", "get", "list", "delete")),
    ("apps", "deployments", "", ("create", "get", "list", "delete")),
    ("", "pods", "", ("get", "list")),
    ("", "pods/log", "", ("get",)),
    ("", "events", "", ("list",)),
    ("", "configmaps", "polaris-config", ("get",)),
)
"""API group, resource, object name and verbs that the orchestrator works with (charts/polaris)."""
ORCHESTRATOR_MAY_NOT: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("", "secrets", "", ("get", "list", "watch")),
)
"""What no pod of a release may do: credentials reach pods by environment only."""


def check_permissions(subject: Subject) -> Iterator[Finding]:
    """Ask the cluster for each permission of the orchestrator, and that secrets stay closed to it."""
    if subject.can_i is None:
        return
    yield from of_orchestrator(subject.can_i)


def of_orchestrator(can_i: CanI) -> Iterator[Finding]:
    """Yield what the orchestrator's account may do, and that it may do no more."""
    role = "Role of ServiceAccount polaris-orchestrator"
    for group, resource, name, verbs in ORCHESTRATOR_MAY:
        missing = [verb for verb in verbs if not can_i(verb, group, resource, name)]
        shown = f"{resource} {name}".strip()
        if missing:
            fix = f"add them to the {role}, or install the chart's RBAC"
            yield failed("permissions", f"may not {', '.join(missing)} {shown}", fix)
        else:
            yield Finding("ok", "permissions", f"may {', '.join(verbs)} {shown}")
    for group, resource, name, verbs in ORCHESTRATOR_MAY_NOT:
        open_ = [verb for verb in verbs if can_i(verb, group, resource, name)]
        if open_:
            fix = f"take that right from the {role}: no pod needs it"
            yield failed("permissions", f"may {', '.join(open_)} {resource}, and must not", fix)
        else:
            yield Finding("ok", "permissions", f"may not read {resource}")
