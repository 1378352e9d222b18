"""The sections of a run's configuration, frozen and fully checked: `RunConfig` and its parts.

How fields are marked, and what the marks mean: `polaris/fields.py`. Reading YAML: `polaris/load.py`.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from polaris.errors import ConfigError
from polaris.fields import (
    URL_PATTERN,
    Content,
    Identity,
    InputPath,
    LocalPath,
    Name,
    Operational,
    Section,
    absolute,
    without_credentials,
)
from polaris.models import CheckpointModel, EndpointModel, Model, TrainedModel
from polaris.providers import Effort, providers
from polaris.recipe import RewardConfig, Sampling, TrainConfig


class StoreConfig(Section):
    """The object store that holds every artifact, checkpoint and judge answer."""

    url: Operational[str] = Field(default=".polaris/store", validate_default=True)
    """`s3://bucket/prefix`, `file:///absolute`, or a folder relative to this file."""
    endpoint: Operational[str | None] = Field(default=None, pattern=URL_PATTERN)
    """S3 endpoint URL; null is AWS itself."""
    region: Operational[str | None] = None
    """S3 region; null takes AWS_REGION or the profile's."""
    path_style: Operational[bool] = False
    """Address buckets by path, not by host name; most stores other than AWS need it."""
    checksum: Operational[Literal["when_required", "when_supported"]] = "when_required"
    """boto3's checksum mode; `when_supported` breaks some older stores."""
    part_mib: Operational[int] = Field(default=32, ge=5, le=1024)
    """Size of one part of a multipart transfer, MiB."""
    parallel: Operational[int] = Field(default=4, ge=1, le=64)
    """Parts of one object in flight at once."""
    retries: Operational[int] = Field(default=5, ge=1, le=20)
    """Tries of one request before the store counts as down."""

    @field_validator("url", "endpoint")
    @classmethod
    def _no_credentials(cls, value: str | None) -> str | None:
        return without_credentials(value)

    @field_validator("url")
    @classmethod
    def _folder_as_url(cls, value: str, info: ValidationInfo) -> str:
        if value.startswith(("s3://", "file:///")):
            return value
        if "://" in value:
            raise ValueError("expected s3://bucket/prefix, file:///absolute/folder or a relative folder")
        return absolute(Path(value), info).as_uri()


class DataConfig(Section):
    """Anthologies → prompt–story pairs."""

    books: Content[tuple[InputPath, ...]] = Field(min_length=1)
    """EPUB files, in order; a file may be `store:data/FILE` (`polaris data import`)."""
    prompts: Content[InputPath | None] = None
    """JSONL rows `{title, author?, prompt, reasoning}`, matched to stories by title and author; a local file
    or `store:data/FILE`."""
    min_words: Identity[int] = Field(default=1000, ge=1)
    """Shorter stories are left out and counted."""
    max_words: Identity[int] = Field(default=4000, ge=1)
    """Longer stories are left out and counted."""
    round_target_to: Identity[int] = Field(default=50, ge=1)
    """A pair's target is its story's word count rounded to a multiple of this."""
    validation_share: Identity[float] = Field(default=0.0, ge=0, lt=1)
    """Share of stories held back for validation, split by author."""

    @model_validator(mode="after")
    def _range(self) -> DataConfig:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is above max_words {self.max_words}")
        return self


class JudgeConfig(Section):
    """One judge: a model, the rubric's form and how it is asked."""

    model: Identity[Name]
    """A name under `models`."""
    form: Identity[Literal["full", "compact"]] = "full"
    """`compact` asks for scores only, in one line a dimension: for small local judges."""
    temperature: Identity[float] = Field(default=0.2, ge=0, le=2)
    """Softmax temperature."""
    top_p: Identity[float] = Field(default=0.9, gt=0, le=1)
    """Nucleus share."""
    max_tokens: Identity[int] = Field(default=16384, ge=64)
    """Longest answer in tokens, reasoning included; an answer cut there is a failure."""
    structured: Identity[Literal["json_schema", "prompt"]] = "json_schema"
    """Enforce the schema by response_format, or put it into the prompt."""
    max_story_tokens: Identity[int | None] = Field(default=None, ge=64)
    """A story longer than about this many tokens fails instead of overflowing the judge's context."""
    repeats: Identity[int] = Field(default=1, ge=1, le=32)
    """Judgements a story."""
    reasoning_effort: Identity[Effort | None] = None
    """How long a reasoning judge thinks; null leaves it to the endpoint."""
    batch: Operational[bool] = False
    """Ask by the provider's batch files, at half price and within a day; training never does."""
    concurrency: Operational[int] = Field(default=16, ge=1, le=512)
    """Most calls in flight at once; fewer while the endpoint refuses more than a fifth of them (429)."""
    attempts: Operational[int] = Field(default=6, ge=1, le=20)
    """Tries of one call, the first included; being told to slow down (429) is not one."""
    timeout_s: Operational[float | None] = Field(default=None, gt=0)
    """Longest wait for one answer, seconds; null: ten minutes, or `max_tokens` at 20 tokens a second."""
    deadline_s: Operational[float] = Field(default=3600.0, gt=0)
    """Longest time for one call with all its tries and waits, seconds."""
    outage_s: Operational[float] = Field(default=300.0, ge=0)
    """How long the endpoint may answer nothing at all before the stage gives up, seconds."""


class EvaluationConfig(Section):
    """What every evaluation sets: who writes which stories, and who judges them."""

    kind: Identity[str]
    """The benchmark."""
    prompts: Content[InputPath]
    """JSONL rows `{id, prompt, target_word_count}`; a local file or `store:data/FILE`."""
    models: Operational[tuple[Name, ...]] = Field(min_length=1)
    """The models that write."""
    baseline: Identity[Name | None] = None
    """The other models are compared with this one, prompt by prompt."""
    judge: Identity[Name]
    """A name under `judges`."""
    limit: Identity[int | None] = Field(default=None, ge=1)
    """Only the first so many prompts."""
    samples: Identity[int] = Field(default=1, ge=1)
    """Stories a prompt."""
    max_tokens: Identity[int] = Field(default=32768, ge=16)
    """Longest completion; stories cut there are counted beside every figure."""
    sampling: Sampling = Sampling()
    """How stories are drawn."""
    bootstrap: Identity[int] = Field(default=10000, ge=100)
    """Resamples behind each interval."""
    concurrency: Operational[int] = Field(default=16, ge=1, le=512)
    """Stories in flight at once."""
    on_demand: Operational[bool] = False
    """Left out of a plain run and its report; `polaris run CONFIG --only report.NAME` makes it and a page."""


class StoryQualityEvaluation(EvaluationConfig):
    """Story Quality of one sample a prompt."""

    kind: Identity[Literal["story-quality"]]
    """The benchmark: how good the stories are."""


class LengthEvaluation(EvaluationConfig):
    """How well models keep to the length that they are asked for, and what it does to Story Quality."""

    kind: Identity[Literal["length"]]
    """The benchmark: how near to the targets the stories come."""
    targets: Identity[tuple[Annotated[int, Field(ge=1)], ...] | None] = Field(default=None, min_length=1)
    """Ask each prompt once at each of these targets, in words; null asks it at its row's own."""

    @field_validator("targets")
    @classmethod
    def _each_once(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        twice = next((target for target in value or () if (value or ()).count(target) > 1), None)
        if twice is not None:
            raise ValueError(f"target {twice} is given twice; give each once")
        return value


Evaluation = Annotated[StoryQualityEvaluation | LengthEvaluation, Field(discriminator="kind")]


class ExecuteConfig(Section):
    """How the instances are carried out."""

    parallel: Operational[int] = Field(default=1, ge=1)
    """Stages at once."""
    retries: Operational[int] = Field(default=2, ge=0)
    """Further attempts of a stage that died or met something transient."""
    service_timeout_s: Operational[float] = Field(default=1800.0, gt=0)
    """Longest wait for a model endpoint's first token, seconds."""
    budget_usd: Operational[float | None] = Field(default=None, gt=0)
    """Most that the run's calls to judges may cost by the price table, US$, all processes together; then it
    stops with exit code 4, keeps everything, and goes on when this is raised. Null is no limit."""
    work_dir: Operational[LocalPath] = Field(default=Path(".polaris/work"), validate_default=True)
    """Scratch space and logs; relative to this file."""
    report_file: Operational[LocalPath] = Field(default=Path(".polaris/report.html"), validate_default=True)
    """Where `polaris run` leaves a copy of the finished report."""


def section_of(arm: str | None) -> str:
    """Return where a training's settings stand: `train` or `arms.NAME`."""
    return "train" if arm is None else f"arms.{arm}"


def _laid_over(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: _laid_over(below[key], above[key]) if key in below else above[key] for key in above}


class RunConfig(Section):
    """One run: what it reads, trains, writes, judges and reports."""

    run: Operational[Name]
    """The run's name; its artifacts lie under `runs/<run>/`."""
    seed: Identity[int] = Field(default=3479, ge=0)
    """Seed of every random choice."""
    store: StoreConfig = Field(default_factory=StoreConfig)
    """The object store."""
    models: dict[Name, Model]
    """Models by name."""
    data: DataConfig
    """The data stage."""
    judges: dict[Name, JudgeConfig]
    """Judges by name."""
    reward: RewardConfig = RewardConfig()
    """The reward of training."""
    train: TrainConfig | None = None
    """The training stage; null trains nothing."""
    arms: dict[Name, TrainConfig] = Field(default_factory=dict)
    """Further trainings by name, for comparison: each is `train` but for the settings that it gives."""
    evaluations: dict[Name, Evaluation] = Field(default_factory=dict)
    """Evaluations by name."""
    execute: ExecuteConfig = Field(default_factory=ExecuteConfig)
    """The executor."""

    @model_validator(mode="before")
    @classmethod
    def _arms_are_variants(cls, raw: Any) -> Any:
        """Lay each arm's settings over those of `train`; what is no mapping is left to be refused."""
        if not isinstance(raw, dict) or not isinstance(raw.get("arms"), dict):
            return raw
        train = raw.get("train")
        if raw["arms"] and train is None:
            raise ValueError("arms: there is no train section whose variants they could be")
        arms = {name: _laid_over(train, {} if arm is None else arm) for name, arm in raw["arms"].items()}
        return raw | {"arms": arms}

    @model_validator(mode="after")
    def _arms_fit(self) -> RunConfig:
        for name, arm in self.arms.items():
            for field in ("nodes", "processes"):
                ours, theirs = getattr(arm, field), getattr(self.train, field)
                if ours != theirs:
                    what = f"expected train's {theirs}: all trainings of a run get the same machines"
                    raise ValueError(f"arms.{name}.{field}: value {ours}; {what}")
        return self

    @model_validator(mode="after")
    def _references_exist(self) -> RunConfig:
        for where, name, table in self._references():
            if name not in table:
                near = difflib.get_close_matches(name, table, n=1, cutoff=0.5)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                known = ", ".join(table) or "nothing"
                raise ValueError(f"{where}: value '{name}'; expected one of: {known}{hint}")
        trained = [name for name, model in self.models.items() if model.kind == "trained"]
        if trained and self.train is None:
            raise ValueError(f"models.{trained[0]}: this run trains it, but there is no train section")
        for arm, train in self.trainings().items():
            section = section_of(arm)
            if self.models[train.base].kind != "checkpoint":
                raise ValueError(f"{section}.base: value '{train.base}'; expected a model of kind checkpoint")
            if self.judges[train.judge].model in trained:
                what = "expected a judge that asks another model than one that this run trains"
                raise ValueError(f"{section}.judge: value '{train.judge}'; {what}")
        return self

    @model_validator(mode="after")
    def _judges_can_be_asked(self) -> RunConfig:
        """Refuse what a judge's provider does not sell, and a budget that no price could ever spend."""
        for name, judge in self.judges.items():
            model, asked = self.models[judge.model], f"models.{judge.model}"
            outside = isinstance(model, EndpointModel)
            provider = model.provider if isinstance(model, EndpointModel) else "vllm"
            sold = providers()[provider]
            if judge.batch and not (outside and sold.batch):
                raise ValueError(f"judges.{name}.batch: value true; {asked} ({provider}) has no batch files")
            effort = judge.reasoning_effort
            if effort is not None and effort not in sold.reasoning_effort:
                known = ", ".join(sold.reasoning_effort) or "none, leave it out"
                raise ValueError(
                    f"judges.{name}.reasoning_effort: value '{effort}'; {asked} ({provider}) takes: {known}"
                )
            if self.execute.budget_usd is not None and outside and not any(self.prices(judge.model)[:2]):
                raise ValueError(
                    f"execute.budget_usd: value {self.execute.budget_usd:g}; {asked} has no price; give its"
                    " usd_per_million_prompt_tokens and usd_per_million_completion_tokens"
                )
        return self

    @model_validator(mode="after")
    def _answers_fit(self) -> RunConfig:
        """Refuse an answer's limit that the context of the served model cannot hold."""
        asked = [
            (f"judges.{name}.max_tokens", judge.model, judge.max_tokens)
            for name, judge in self.judges.items()
        ]
        for name, evaluation in self.evaluations.items():
            asked += [
                (f"evaluations.{name}.max_tokens", model, evaluation.max_tokens)
                for model in evaluation.models
            ]
        for where, model, tokens in asked:
            serve = getattr(self.models.get(model), "serve", None)
            longest = serve.max_model_len if serve else None
            if longest is not None and tokens >= longest:
                raise ValueError(
                    f"{where}: value {tokens}; expected less than models.{model}.serve."
                    f"max_model_len {longest}, which holds the prompt too"
                )
        return self

    def _references(self) -> list[tuple[str, str, dict[str, Any]]]:
        models: dict[str, Any] = dict(self.models)
        judges: dict[str, Any] = dict(self.judges)
        found = [(f"judges.{name}.model", judge.model, models) for name, judge in self.judges.items()]
        for arm, train in self.trainings().items():
            section = section_of(arm)
            found += [(f"{section}.base", train.base, models), (f"{section}.judge", train.judge, judges)]
        for name, model in self.models.items():
            if isinstance(model, TrainedModel) and model.arm is not None:
                found.append((f"models.{name}.arm", model.arm, dict(self.arms)))
        for name, evaluation in self.evaluations.items():
            found += [(f"evaluations.{name}.models", model, models) for model in evaluation.models]
            found.append((f"evaluations.{name}.judge", evaluation.judge, judges))
            if evaluation.baseline:
                writers = dict.fromkeys(evaluation.models)
                found.append((f"evaluations.{name}.baseline", evaluation.baseline, writers))
        return found

    def trainings(self) -> dict[str | None, TrainConfig]:
        """Return this run's trainings by their arm; `train` itself has None."""
        found: dict[str | None, TrainConfig] = {} if self.train is None else {None: self.train}
        return found | dict(self.arms)

    def training(self, arm: str | None = None) -> TrainConfig:
        """Return the settings of `train` or of an arm; raise ConfigError where there are none."""
        found = self.trainings().get(arm)
        if found is None:
            raise ConfigError(f"{section_of(arm)}: this configuration has no such training; add the section")
        return found

    def thinking(self, model: str) -> bool:
        """Tell whether the named model reasons before its story."""
        found = self.models[model]
        if isinstance(found, TrainedModel):
            return self.thinking(self.training(found.arm).base)
        return found.thinking

    def prices(self, model: str) -> tuple[float, float, float | None, float]:
        """Return the arguments of `polaris.chat.Prices`: nothing costs of a model that this run serves."""
        found = self.models[model]
        if not isinstance(found, EndpointModel):
            return 0.0, 0.0, None, 1.0
        return (
            found.usd_per_million_prompt_tokens,
            found.usd_per_million_completion_tokens,
            found.usd_per_million_cached_prompt_tokens,
            providers()[found.provider].half_price_tier,
        )

    def dtype(self, model: str) -> str:
        """Return the number format in which a model of this run is served."""
        found = self.models[model]
        if isinstance(found, TrainedModel):
            return self.dtype(self.training(found.arm).base)
        assert isinstance(found, CheckpointModel)
        return found.dtype
