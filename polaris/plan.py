"""A configuration in, its graph of stage instances out; a state in, the next actions out. All pure."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from polaris.config import RunConfig, section_of
from polaris.errors import FINAL, ConfigError
from polaris.identity import digest_of, identity_of
from polaris.kinds import KINDS
from polaris.models import EndpointModel, TrainedModel


@dataclass(frozen=True)
class Instance:
    """One piece of work: `kind` applied to `params`, after `needs`, while `services` answer.

    `identity` is what decides its artifact's content and `digest` its hash; `services` are names under
    the configuration's `models` that this run serves. One that is `on_demand` waits to be asked for.
    """

    name: str
    kind: str
    params: Mapping[str, str]
    needs: tuple[str, ...]
    services: tuple[str, ...]
    identity: Mapping[str, Any]
    digest: str
    on_demand: bool = False


@dataclass(frozen=True)
class Plan:
    """A run's instances by name, every one after what it needs."""

    instances: dict[str, Instance]

    def find(self, name: str) -> Instance:
        """Return the instance of this name; raise ConfigError, with the nearest name, if there is none."""
        if name not in self.instances:
            near = difflib.get_close_matches(name, self.instances, n=1, cutoff=0.5)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            known = ", ".join(self.instances)
            raise ConfigError(f"'{name}' is no instance of this run; it has {known}{hint}")
        return self.instances[name]

    def selected(self, only: Iterable[str], *, needs: bool = True) -> set[str]:
        """Return the named instances and all that they need; all but those on demand if none is named.

        A name may be a pattern of `*`, `?` and `[…]`; without `needs`, only what is named comes back.
        Raises ConfigError for a name or a pattern that fits no instance.
        """
        plain = [name for name, instance in self.instances.items() if not instance.on_demand]
        waiting = [name for pattern in only for name in self._matching(pattern)] or plain
        found: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self.instances[name].needs if needs else ()
        return found

    def _matching(self, pattern: str) -> list[str]:
        if not any(sign in pattern for sign in "*?["):
            return [self.find(pattern).name]
        found = [name for name in self.instances if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            known = ", ".join(self.instances)
            raise ConfigError(f"--only: '{pattern}' fits no instance of this run; it has {known}")
        return found


def train_instance(arm: str | None) -> str:
    """Return the name of the instance that trains: `train`, or `train.ARM`."""
    return "train" if arm is None else f"train.{arm}"


def as_of(config: RunConfig, instance: Instance, text: str) -> str:
    """Name a training's own settings in a text by their place.

    What is common to all trainings says `train.KEY`; that is `arms.NAME.KEY` where the arm has another value.
    """
    arm = instance.params.get("arm")
    if instance.kind != "train" or arm is None:
        return text
    train, own = config.training(), config.training(arm)

    def place(match: re.Match[str]) -> str:
        key = match[1]
        same = getattr(train, key, None) == getattr(own, key, None)
        return match[0] if same else f"{section_of(arm)}.{key}"

    return re.sub(r"(?<![\w./-])train\.([a-z_]+)", place, text)


def plan(config: RunConfig, contents: Mapping[Path, str]) -> Plan:
    """Unfold a configuration into its instances; `contents` are its files' hashes."""
    return Plan(_Unfolding(config, contents).all())


class _Unfolding:
    def __init__(self, config: RunConfig, contents: Mapping[Path, str]) -> None:
        self.config = config
        self.contents = contents
        self.found: dict[str, Instance] = {}

    def all(self) -> dict[str, Instance]:
        config = self.config
        self._add("data", {}, (), (), {"data": identity_of(config.data, self.contents)})
        for arm in config.trainings():
            self._train(arm)
        on_demand = [name for name, evaluation in config.evaluations.items() if evaluation.on_demand]
        self._evaluations([name for name in config.evaluations if name not in on_demand])
        self._add("report", {}, tuple(self.found), (), {})
        for name in on_demand:
            self._evaluations([name])
            self._report_of(name)
        return self.found

    def _evaluations(self, names: list[str]) -> None:
        pairs = [(model, name) for name in names for model in self.config.evaluations[name].models]
        for step in (self._generate, self._judge, self._evaluate):
            for model, evaluation in pairs:
                step(model, evaluation)

    def _report_of(self, evaluation: str) -> None:
        """Add the report of an evaluation that is made on demand: of it, and of all that it stands on."""
        models = self.config.evaluations[evaluation].models
        stands_on = Plan(self.found).selected(
            ["data", *(f"evaluate.{model}.{evaluation}" for model in models)]
        )
        needs = tuple(name for name in self.found if name in stands_on)
        self._add("report", {"evaluation": evaluation}, needs, (), {})

    def _train(self, arm: str | None) -> None:
        train = self.config.training(arm)
        base, _ = self._model(train.base)
        judge, judge_needs, services = self._judge_part(train.judge)
        self._add(
            "train",
            {} if arm is None else {"arm": arm},
            ("data", *judge_needs),
            services,
            {
                "train": identity_of(train, self.contents),
                "reward": identity_of(self.config.reward, self.contents),
                "base": base,
                "judge": judge,
            },
        )

    def _generate(self, model: str, evaluation: str) -> None:
        writer, needs = self._model(model)
        settings = identity_of(self.config.evaluations[evaluation], self.contents)
        # The judge, the comparison and the resampling come after the stories and decide nothing about them.
        later = ("judge", "baseline", "bootstrap")
        asked = {key: value for key, value in settings.items() if key not in later}
        params = {"model": model, "evaluation": evaluation}
        self._add("generate", params, needs, self._served(model), {"evaluation": asked, "model": writer})

    def _judge(self, model: str, evaluation: str) -> None:
        judge, needs, services = self._judge_part(self.config.evaluations[evaluation].judge)
        params = {"model": model, "evaluation": evaluation}
        stories = f"generate.{model}.{evaluation}"
        self._add("judge", params, (stories, *needs), services, {"judge": judge})

    def _evaluate(self, model: str, evaluation: str) -> None:
        settings = self.config.evaluations[evaluation]
        needs = [f"generate.{model}.{evaluation}", f"judge.{model}.{evaluation}"]
        if settings.baseline and settings.baseline != model:
            needs += [f"generate.{settings.baseline}.{evaluation}", f"judge.{settings.baseline}.{evaluation}"]
        identity = {
            "bootstrap": settings.bootstrap,
            "baseline": settings.baseline,
            "training_judge": self._training_judge(model),
        }
        params = {"model": model, "evaluation": evaluation}
        self._add("evaluate", params, tuple(needs), (), identity)

    def _model(self, name: str) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return a model's identity and the instances that make it."""
        model = self.config.models[name]
        if isinstance(model, TrainedModel):
            instance = train_instance(model.arm)
            return {"kind": "trained", "train": self.found[instance].digest}, (instance,)
        return identity_of(model, self.contents), ()

    def _training_judge(self, model: str) -> dict[str, Any] | None:
        """Return the identity of the model that judged a model's training, None if it had none."""
        found = self.config.models[model]
        if not isinstance(found, TrainedModel):
            return None
        return self._model(self.config.judges[self.config.training(found.arm).judge].model)[0]

    def _judge_part(self, name: str) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
        """Return a judge's identity, the instances that make its model, and its services."""
        judge = self.config.judges[name]
        model, needs = self._model(judge.model)
        asked = identity_of(judge, self.contents)
        del asked["model"]
        return {"settings": asked, "model": model}, needs, self._served(judge.model)

    def _served(self, model: str) -> tuple[str, ...]:
        return () if isinstance(self.config.models[model], EndpointModel) else (model,)

    def _add(
        self,
        kind: str,
        params: dict[str, str],
        needs: tuple[str, ...],
        services: tuple[str, ...],
        identity: dict[str, Any],
    ) -> None:
        name = ".".join((kind, *params.values()))
        whole = {
            "kind": kind,
            "version": KINDS[kind].version,
            "params": params,
            "seed": self.config.seed,
            "needs": {need: self.found[need].digest for need in needs},
            **identity,
        }
        of = self.config.evaluations.get(params.get("evaluation", ""))
        on_demand = of is not None and of.on_demand
        self.found[name] = Instance(name, kind, params, needs, services, whole, digest_of(whole), on_demand)


@dataclass(frozen=True)
class Failure:
    """An instance's latest failure: the exit code and how many attempts it has had."""

    code: int
    attempts: int


@dataclass(frozen=True)
class State:
    """What is known of a run at one moment; `services` maps a model to whether its endpoint answers."""

    complete: frozenset[str] = frozenset()
    running: frozenset[str] = frozenset()
    failures: Mapping[str, Failure] = field(default_factory=dict)
    services: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Action:
    """One thing to do: start or stop the named stage or service."""

    do: Literal["start-stage", "start-service", "stop-service"]
    name: str


def is_lost(failure: Failure | None, retries: int) -> bool:
    """Tell whether a failure is final: no retry can mend its code, or the retries are used up."""
    return failure is not None and (failure.code in FINAL or failure.attempts > retries)


def next_actions(
    plan: Plan, selected: set[str], state: State, *, parallel: int, retries: int
) -> tuple[list[Action], bool]:
    """Return what to do now, and whether the run is over.

    An instance starts when its needs are complete, a place is free and its services answer; a service
    starts when an instance that needs it could start, and stops when none that can still run needs it.
    """
    open_ = _can_still_run(plan, selected, state, retries)
    ready = [
        plan.instances[name]
        for name in open_
        if name not in state.running and all(need in state.complete for need in plan.instances[name].needs)
    ]
    chosen = ready[: max(0, parallel - len(state.running))]
    needed = {service for name in open_ for service in plan.instances[name].services}
    actions = [Action("stop-service", name) for name in sorted(state.services) if name not in needed]
    for instance in chosen:
        missing = [name for name in instance.services if name not in state.services]
        actions += [action for name in missing if (action := Action("start-service", name)) not in actions]
        if all(state.services.get(name) for name in instance.services):
            actions.append(Action("start-stage", instance.name))
    over = not open_ and not state.services
    return actions, over


def _can_still_run(plan: Plan, selected: set[str], state: State, retries: int) -> list[str]:
    """List the selected, incomplete instances that no lost instance stands before, in plan order."""
    lost: set[str] = set()
    found = []
    for name, instance in plan.instances.items():
        if name not in selected or name in state.complete:
            continue
        if is_lost(state.failures.get(name), retries) or any(need in lost for need in instance.needs):
            lost.add(name)
            continue
        found.append(name)
    return found
