"""The demo's graph, and what the next actions promise whatever ends in whatever order."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from context import settings
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from polaris.config import RunConfig
from polaris.errors import FINAL, ConfigError
from polaris.plan import Action, Failure, Instance, Plan, State, is_lost, next_actions, plan
from polaris.run import Run, open_run


def test_the_demo_unfolds_into_its_instances(demo: Path) -> None:
    instances = open_run(demo).plan.instances
    assert {name: (found.needs, found.services) for name, found in instances.items()} == {
        "data": ((), ()),
        "train": (("data",), ("judge",)),
        "generate.base.story-quality": ((), ("base",)),
        "generate.trained.story-quality": (("train",), ("trained",)),
        "judge.base.story-quality": (("generate.base.story-quality",), ("judge",)),
        "judge.trained.story-quality": (("generate.trained.story-quality",), ("judge",)),
        "evaluate.base.story-quality": (("generate.base.story-quality", "judge.base.story-quality"), ()),
        "evaluate.trained.story-quality": (
            (
                "generate.trained.story-quality",
                "judge.trained.story-quality",
                "generate.base.story-quality",
                "judge.base.story-quality",
            ),
            (),
        ),
        "report": (tuple(name for name, found in instances.items() if not found.on_demand)[:-1], ()),
        "generate.trained.length": (("train",), ("trained",)),
        "judge.trained.length": (("generate.trained.length",), ("judge",)),
        "evaluate.trained.length": (("generate.trained.length", "judge.trained.length"), ()),
        "report.length": (
            (
                "data",
                "train",
                "generate.trained.length",
                "judge.trained.length",
                "evaluate.trained.length",
            ),
            (),
        ),
    }
    assert instances["generate.base.story-quality"].params == {"model": "base", "evaluation": "story-quality"}
    assert instances["train"].kind == "train"
    assert (instances["report.length"].kind, instances["report.length"].params) == (
        "report",
        {"evaluation": "length"},
    )


def test_names_are_fit_for_object_keys_and_every_need_comes_first(demo: Path) -> None:
    seen: set[str] = set()
    for name, instance in open_run(demo).plan.instances.items():
        assert re.fullmatch(r"[a-z0-9.-]+", name)
        assert seen.issuperset(instance.needs)
        seen.add(name)


def test_a_run_without_training_or_endpoints_of_its_own(run: Run) -> None:
    instances = run.plan.instances
    assert list(instances) == [
        "data",
        "generate.writer.quality",
        "judge.writer.quality",
        "evaluate.writer.quality",
        "report",
    ]
    assert not any(instance.services for instance in instances.values())


def test_a_judge_that_this_run_trains_waits_for_the_training(tmp_path: Path) -> None:
    raw: dict[str, Any] = settings(tmp_path)
    raw["models"] |= {"base": {"kind": "checkpoint", "path": "m"}, "trained": {"kind": "trained"}}
    raw["judges"]["own"] = {"model": "trained"}
    raw["train"] = {"base": "base", "judge": "judge"}
    raw["evaluations"]["quality"]["judge"] = "own"
    config = RunConfig.model_validate(raw, context={"base": tmp_path})
    contents = {tmp_path / name: name for name in ("m", "book.epub", "prompts.jsonl")}
    judge = plan(config, contents).instances["judge.writer.quality"]
    assert judge.needs == ("generate.writer.quality", "train")
    assert judge.services == ("trained",)


@pytest.mark.parametrize(
    ("models", "baseline", "judge", "trains"),
    [
        (["writer"], None, "judge", False),
        (["trained"], None, "judge", True),
        (["writer", "trained"], "writer", "judge", True),
        (["writer"], None, "own", True),
    ],
)
def test_a_report_on_demand_needs_what_its_evaluation_stands_on(
    tmp_path: Path, models: list[str], baseline: str | None, judge: str, trains: bool
) -> None:
    raw: dict[str, Any] = settings(tmp_path)
    raw["models"] |= {"base": {"kind": "checkpoint", "path": "m"}, "trained": {"kind": "trained"}}
    raw["judges"]["own"] = {"model": "trained"}
    raw["train"] = {"base": "base", "judge": "judge"}
    raw["evaluations"]["later"] = raw["evaluations"]["quality"] | {
        "models": models,
        "baseline": baseline,
        "judge": judge,
        "on_demand": True,
    }
    config = RunConfig.model_validate(raw, context={"base": tmp_path})
    contents = {tmp_path / name: name for name in ("m", "book.epub", "prompts.jsonl")}
    unfolded = plan(config, contents)
    own = {f"{kind}.{model}.later" for kind in ("generate", "judge", "evaluate") for model in models}
    assert set(unfolded.instances["report.later"].needs) == own | {"data"} | ({"train"} if trains else set())
    assert not own & set(unfolded.instances["report"].needs)


def test_selecting_takes_what_is_needed(demo: Path) -> None:
    unfolded = open_run(demo).plan
    on_demand = {name for name in unfolded.instances if name.endswith(".length")}
    assert unfolded.selected([]) == set(unfolded.instances) - on_demand
    assert on_demand == {name for name, found in unfolded.instances.items() if found.on_demand}
    assert unfolded.selected(["report.length"]) == on_demand | {"data", "train"}
    assert unfolded.selected(["train"]) == {"train", "data"}
    assert unfolded.selected(["judge.trained.story-quality", "generate.base.story-quality"]) == {
        "judge.trained.story-quality",
        "generate.trained.story-quality",
        "generate.base.story-quality",
        "train",
        "data",
    }
    with pytest.raises(
        ConfigError, match=r"^'trian' is no instance of this run; it has data, train, generate\."
    ):
        unfolded.selected(["trian"])


def test_patterns_select_too(demo: Path) -> None:
    unfolded = open_run(demo).plan
    judged = {name for name in unfolded.instances if name.startswith("judge.") and name.endswith(".length")}
    assert judged
    assert unfolded.selected(["judge.*.length"], needs=False) == judged
    assert unfolded.selected(["judge.*.length", "data"], needs=False) == judged | {"data"}
    assert unfolded.selected(["judge.*.length"]) >= judged | {"generate.trained.length", "train", "data"}
    with pytest.raises(ConfigError, match=r"^--only: 'judge\.\*\.size' fits no instance of this run"):
        unfolded.selected(["judge.*.size"])


def test_what_is_lost() -> None:
    assert not is_lost(None, 2)
    assert not is_lost(Failure(75, 2), 2)
    assert is_lost(Failure(75, 3), 2)
    assert is_lost(Failure(1, 1), 0)
    assert all(is_lost(Failure(code, 1), 9) for code in FINAL)
    assert {2, 3, 4, 5} == FINAL


def _plan(**needs: tuple[str, str]) -> Plan:
    """Return a plan of names with their needs and services, both as space-separated words."""
    return Plan(
        {
            name: Instance(name, "kind", {}, tuple(before.split()), tuple(services.split()), {}, name)
            for name, (before, services) in needs.items()
        }
    )


def _next(found: Plan, state: State, parallel: int = 1) -> tuple[list[tuple[str, str]], bool]:
    actions, over = next_actions(found, set(found.instances), state, parallel=parallel, retries=1)
    return [(action.do, action.name) for action in actions], over


def test_a_stage_waits_for_its_service_and_the_service_goes_when_nobody_needs_it() -> None:
    found = _plan(a=("", "m"), b=("a", "m"), c=("b", ""))
    assert _next(found, State()) == ([("start-service", "m")], False)
    assert _next(found, State(services={"m": False})) == ([], False)
    assert _next(found, State(services={"m": True})) == ([("start-stage", "a")], False)
    done_a = State(complete=frozenset("a"), services={"m": True})
    assert _next(found, done_a) == ([("start-stage", "b")], False)
    done_b = State(complete=frozenset("ab"), services={"m": True})
    assert _next(found, done_b) == ([("stop-service", "m"), ("start-stage", "c")], False)
    done_c = State(complete=frozenset("abc"), services={"m": True})
    assert _next(found, done_c) == ([("stop-service", "m")], False), "over only when the service is gone"
    assert _next(found, State(complete=frozenset("abc"))) == ([], True)


def test_a_service_is_started_once_for_two_that_need_it() -> None:
    found = _plan(a=("", "m"), b=("", "m n"))
    assert _next(found, State(), parallel=2)[0] == [("start-service", "m"), ("start-service", "n")]
    assert _next(found, State(services={"m": True, "n": False}), parallel=2)[0] == [("start-stage", "a")]


def test_nothing_is_started_for_what_is_not_selected() -> None:
    found = _plan(a=("", "m"), b=("", "n"))
    actions, over = next_actions(found, {"b"}, State(), parallel=2, retries=0)
    assert (actions, over) == ([Action("start-service", "n")], False)


CODES = st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5, 75, 137])


@dataclass
class _World:
    """A simulated executor: stages run until `data` says that one ends, services until told to stop."""

    plan: Plan
    selected: set[str]
    parallel: int
    retries: int
    data: st.DataObject
    complete: set[str] = field(default_factory=set)
    running: set[str] = field(default_factory=set)
    services: dict[str, bool] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)

    def state(self) -> State:
        return State(
            frozenset(self.complete), frozenset(self.running), dict(self.failures), dict(self.services)
        )

    def lost(self) -> set[str]:
        return {name for name, failure in self.failures.items() if is_lost(failure, self.retries)}

    def act(self, action: Action) -> None:
        if action.do == "start-service":
            assert action.name not in self.services, "started twice"
            self.services[action.name] = False
        elif action.do == "stop-service":
            users = [self.plan.instances[name] for name in self._can_still_run()]
            assert not any(action.name in user.services for user in users), "stopped while it is needed"
            del self.services[action.name]
        else:
            instance = self.plan.instances[action.name]
            assert action.name in self.selected
            assert action.name not in self.running | self.complete | self.lost()
            assert self.complete.issuperset(instance.needs), "started before its needs"
            assert all(self.services.get(name) for name in instance.services), "started before its services"
            self.running.add(action.name)
            self.started.append(action.name)
            assert len(self.running) <= self.parallel

    def happen(self) -> bool:
        """Let one thing happen that the loop waits for; tell whether there was one."""
        starting = sorted(name for name, ready in self.services.items() if not ready)
        events = [("ready", name) for name in starting] + [("end", name) for name in sorted(self.running)]
        if not events:
            return False
        what, name = self.data.draw(st.sampled_from(events))
        if what == "ready":
            self.services[name] = True
            return True
        self.running.remove(name)
        code = self.data.draw(CODES)
        if code == 0:
            self.complete.add(name)
            self.failures.pop(name, None)
        else:
            before = self.failures.get(name)
            self.failures[name] = Failure(code, before.attempts + 1 if before else 1)
        return True

    def blocked(self) -> set[str]:
        """Return what a lost instance stands before, itself included."""
        found = self.lost()
        for name, instance in self.plan.instances.items():
            if found & set(instance.needs):
                found.add(name)
        return found

    def _can_still_run(self) -> set[str]:
        return self.selected - self.complete - self.blocked()


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    names = [f"i{number}" for number in range(draw(st.integers(1, 9)))]
    needs: dict[str, tuple[str, str]] = {}
    for position, name in enumerate(names):
        before = draw(st.lists(st.sampled_from(names[:position]), unique=True)) if position else []
        services = draw(st.lists(st.sampled_from(["m", "n", "o"]), unique=True, max_size=2))
        needs[name] = (" ".join(before), " ".join(services))
    return _plan(**needs)


@hypothesis_settings(max_examples=150, deadline=None)
@given(plans(), st.integers(1, 4), st.integers(0, 2), st.data())
def test_whatever_ends_however_the_loop_keeps_its_promises(
    found: Plan, parallel: int, retries: int, data: st.DataObject
) -> None:
    wanted = data.draw(st.lists(st.sampled_from(sorted(found.instances)), unique=True))
    selected = found.selected(wanted)
    before = data.draw(st.sets(st.sampled_from(sorted(found.instances))))
    complete = {name for name in before if found.selected([name]) - {name} <= before}
    world = _World(found, selected, parallel, retries, data, complete=set(complete))
    for _ in range(len(found.instances) * (retries + 2) * 4 + 20):
        actions, over = next_actions(found, selected, world.state(), parallel=parallel, retries=retries)
        for action in actions:
            world.act(action)
        if over:
            break
        assert world.happen() or actions, "nothing to do, nothing under way, and not over"
    else:
        raise AssertionError("it never ends")
    assert not world.running
    assert not world.services, "no server is left behind"
    assert world.complete & selected | world.blocked() & selected == selected
    assert not world.complete & world.blocked() - complete, "a lost instance blocks what needs it"
    assert all(world.started.count(name) <= retries + 1 for name in selected)
    assert not set(world.started) & complete, "what was complete is not done again"
