"""Actions in, Jobs and Deployments of one namespace out: created, adopted, watched by polling, deleted.

All that is known is read from the cluster and the store at every look, so that the orchestrator may be
killed and started again at any moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from polaris.errors import BAD_CONFIG, DONE, TERMINATED, ConfigError
from polaris.execute.deployments import Deployments
from polaris.execute.ended import Ended
from polaris.execute.kube import AlreadyExists, Kube
from polaris.execute.manifests import (
    ATTEMPT,
    COMPONENT,
    CONFIG_MAP,
    DIGEST,
    INSTANCE,
    ORCHESTRATOR,
    RELEASE,
    RUN,
    endpoints,
    owner,
    stage_job,
)
from polaris.execute.podlogs import PodLogs, setting
from polaris.execute.reasons import OOM, End, is_finished, job_end
from polaris.execute.waits import Waits
from polaris.plan import Instance
from polaris.run import Run
from polaris.runtime import get_logger
from polaris.stage import newest_status

log = get_logger("cluster")

Object = Mapping[str, Any]


class ClusterExecutor:
    """Carries actions out with the Jobs and Deployments of a release.

    `orchestrator` tells our Jobs from those of an earlier configuration, whose failures do not count; it
    is empty for one that a person started by hand.
    Raises ConfigError where a manifest or the release's ConfigMap is missing.
    """

    poll_s = 2.0
    outlives_loop = True

    def __init__(
        self,
        run: Run,
        kube: Kube,
        manifests: Path,
        *,
        release: str,
        orchestrator: str,
        keep: frozenset[str] = frozenset(),
    ) -> None:
        self._run = run
        self._kube = kube
        self._release = release
        self._orchestrator = orchestrator
        kinds = {instance.kind for instance in run.plan.instances.values()}
        models = {model for instance in run.plan.instances.values() for model in instance.services}
        self._templates = {kind: self._read(manifests / f"stage-{kind}.yaml") for kind in sorted(kinds)}
        servers = {model: self._read(manifests / f"serve-{model}.yaml") for model in sorted(models)}
        config_map = kube.config_map(CONFIG_MAP)
        if config_map is None:
            raise ConfigError(
                f"namespace '{kube.namespace}' has no ConfigMap '{CONFIG_MAP}'; install the chart there first"
            )
        self._owner = owner(config_map)
        self._waits = Waits(kube)
        self._logs = PodLogs(run, kube)
        self._servers = Deployments(run, kube, servers, self._owner, self._waits, keep)
        self._first = True
        self._jobs: dict[str, Object] = {}
        """The Jobs of the plan's instances and digests by uid, as the last look saw them."""
        self._told: set[str] = set()
        self._known: set[str] = set()
        self._ended: list[Ended] = []

    # Stages

    def start_stage(self, name: str) -> None:
        """Create the Job of an instance's next attempt; one that is there and live is adopted."""
        instance = self._run.plan.instances[name]
        numbers = [_attempt(job) for job in self._jobs.values() if _instance(job) == name]
        attempt = max(numbers, default=0) + 1
        while True:
            body = stage_job(
                self._templates[instance.kind],
                instance,
                run=self._run.config.run,
                attempt=attempt,
                orchestrator=self._orchestrator,
                owner=self._owner,
            )
            job: Object | None
            try:
                job = self._kube.create_job(body)
                log.info("created", job=job["metadata"]["name"], instance=name, attempt=attempt)
                break
            except AlreadyExists:
                job = self._kube.job(body["metadata"]["name"])
            if job is None:
                continue
            if self._is_of(job, instance) and not is_finished(job):
                self._adopted(job)
                break
            attempt += 1
        self._known.add(job["metadata"]["uid"])
        self._jobs[job["metadata"]["uid"]] = job

    def running(self) -> dict[str, Path | None]:
        """Return the instances with a live Job; their logs are in their pods."""
        return {_instance(job): None for uid, job in self._jobs.items() if uid not in self._told}

    def ended(self) -> list[Ended]:
        """Look at the cluster, and return the stages that ended since the last call.

        The first call also returns the failures that an earlier process of this orchestrator saw.
        """
        self._look()
        found, self._ended = self._ended, []
        return found

    def stop_stages(self, number: int) -> None:
        """Do nothing: stages live on without us."""

    # Services

    def start_service(self, model: str) -> None:
        """Create a model's Deployment as soon as its name is free."""
        self._servers.start(model)

    def services(self) -> dict[str, bool]:
        """Return the model servers that should be up, and whether they answer."""
        return self._servers.listed()

    def dead_services(self) -> list[Ended]:
        """Return the model servers that were given up since the last call."""
        return self._servers.dead()

    def stop_service(self, model: str) -> None:
        """Delete a model's Deployment, unless it is to be kept."""
        self._servers.stop(model)

    # Looking

    def _look(self) -> None:
        run = self._run.config.run
        release = f"{RELEASE}={self._release}"
        # Jobs first: a pod can only be further than what its Job says of it.
        jobs = self._kube.jobs(f"{release},{RUN}={run}")
        pods = self._kube.pods(f"{release},{COMPONENT} in (stage,serve)")
        deployments = self._kube.deployments(f"{release},{COMPONENT}=serve")
        before = self._jobs
        self._jobs = {job["metadata"]["uid"]: job for job in jobs if self._is_current(job)}
        for job in jobs:
            self._meet(job)
        if self._first:
            self._recall()
            self._first = False
        stages = [pod for pod in pods if _label(pod, RUN) == run and self._is_current(pod)]
        self._logs.take(stages)
        for known in sorted(self._jobs.values(), key=_attempt):
            if known["metadata"]["uid"] not in self._told:
                self._judge(known, [pod for pod in stages if _belongs(pod, known)])
        for uid in set(before) - set(self._jobs) - self._told:
            self._vanished(before[uid])
        in_use = frozenset(model for job in jobs if not is_finished(job) for model in endpoints(job))
        self._servers.look(deployments, [pod for pod in pods if _label(pod, COMPONENT) == "serve"], in_use)

    def _recall(self) -> None:
        """Take in the final failures whose Jobs an earlier process deleted."""
        tried = {_instance(job) for job in self._jobs.values()}
        for name in self._run.plan.instances:
            if name not in tried and (end := self._out_of_memory(name)) and not self._run.manifest(name):
                self._ended.append(Ended(name, end.code, end.reason))

    def _out_of_memory(self, name: str) -> End | None:
        """Return the end in the store of an instance that this very configuration gave too little memory."""
        status = newest_status(self._run.store, self._run.prefix(name)) if self._orchestrator else {}
        said, reason = (status.get("state"), status.get("code")), str(status.get("reason"))
        ours = status.get("orchestrator") == self._orchestrator
        return End(BAD_CONFIG, reason) if ours and said == ("failed", BAD_CONFIG) and OOM in reason else None

    def _meet(self, job: Object) -> None:
        """Log a live Job that this process has not made, once."""
        uid = job["metadata"]["uid"]
        if uid in self._known:
            return
        self._known.add(uid)
        if is_finished(job):
            return
        if uid in self._jobs:
            self._adopted(job)
        else:
            name, digest = _instance(job), _label(job, DIGEST)
            log.info("left_alone", job=job["metadata"]["name"], instance=name, digest=digest)

    def _adopted(self, job: Object) -> None:
        log.info("adopted", job=job["metadata"]["name"], instance=_instance(job), attempt=_attempt(job))

    def _judge(self, job: Object, pods: list[Object]) -> None:
        """Find out whether a Job has ended and how, or why it waits."""
        name, kept = _instance(job), self._logs.of(pods)
        end = job_end(job, kept.end if kept else None, setting(job))
        if end is None and kept and kept.end.at_once:
            # Its log is in the store, and every further pod would end the same way.
            self._kube.delete_job(dict(job))
            end = kept.end
        if end is None:
            self._waits.look(name, pods, job)
            return
        self._told.add(job["metadata"]["uid"])
        if (why := self._waits.why(name)) and end.code != DONE:
            end = End(end.code, f"{end.reason}; it waited: {why}")
        self._waits.tell(name, "")
        if end.code != DONE and (kept is None or kept.end.reason not in end.reason):
            self._logs.note(name, job, kept, end)
        self._tell(job, end)

    def _vanished(self, job: Object) -> None:
        """Take in that somebody deleted a Job before its end was seen."""
        self._told.add(job["metadata"]["uid"])
        name = _instance(job)
        if self._run.manifest(name):
            self._tell(job, End(DONE, ""))
        else:
            # An earlier process of ours may have been the one that deleted it.
            self._tell(job, self._out_of_memory(name) or End(TERMINATED, "its Job was deleted"))

    def _tell(self, job: Object, end: End) -> None:
        """Report an end to the loop; of an earlier configuration's Job only that it made the artifact."""
        name = _instance(job)
        if _label(job, ORCHESTRATOR) == self._orchestrator or self._run.manifest(name):
            self._ended.append(Ended(name, end.code, end.reason))
        else:
            reason = end.reason or "it ended well without a manifest"
            log.info("failed_before", job=job["metadata"]["name"], instance=name, reason=reason, counts=False)

    def _read(self, path: Path) -> Object:
        """Return a template; one of another release would make what we then do not find."""
        found = _parsed(path)
        try:
            labels = [found["metadata"]["labels"], found["spec"]["template"]["metadata"]["labels"]]
        except (KeyError, TypeError):
            labels = [{}]
        if any(entry.get(RELEASE) != self._release or not entry.get(COMPONENT) for entry in labels):
            raise ConfigError(
                f"--manifests: '{path}' and its pods lack the labels {RELEASE}={self._release}, {COMPONENT};"
                " name the release that they were rendered for (POLARIS_RELEASE)"
            )
        return found

    def _is_current(self, found: Object) -> bool:
        instance = self._run.plan.instances.get(_instance(found))
        return instance is not None and self._is_of(found, instance)

    def _is_of(self, found: Object, instance: Instance) -> bool:
        ours = _label(found, RELEASE) == self._release and _label(found, RUN) == self._run.config.run
        return ours and _instance(found) == instance.name and _label(found, DIGEST) == instance.digest


def _parsed(path: Path) -> Object:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--manifests: '{path}' cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--manifests: '{path}' is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"--manifests: '{path}' holds no Kubernetes object; render the chart again")
    return found


def _label(found: Object, name: str) -> str:
    return str((found["metadata"].get("labels") or {}).get(name, ""))


def _instance(found: Object) -> str:
    return str((found["metadata"].get("annotations") or {}).get(INSTANCE, ""))


def _attempt(job: Object) -> int:
    return int(_label(job, ATTEMPT) or 0)


def _belongs(pod: Object, job: Object) -> bool:
    owners = pod["metadata"].get("ownerReferences") or []
    return any(entry.get("uid") == job["metadata"]["uid"] for entry in owners)
