"""The supervisor with real torchrun, real workers on a tiny model, and a FAKE judge endpoint."""

import json
import os
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
from context import read_output
from fake_endpoint import Reply, fake_endpoint
from fake_endpoint import error as refusal
from fakes import STORIES, answer, stage

from polaris.artifact import from_rows, to_rows
from polaris.budget import prefix_of, spent_in
from polaris.errors import DONE, BudgetError, ConfigError, GuardError, InputError, Stopped, TransientError
from polaris.load import load
from polaris.runtime import StopFlag
from polaris.train import checkpoint, spent, worker
from polaris.train.checkpoint import Layout, write_layout
from polaris.train.job import Job, read_status
from polaris.train.nodes import Team
from polaris.train.spent import rewind
from polaris.train.stage import Uploads, book_unfinished, prepare, restore, run, write
from polaris.train.supervise import Trainer, worker_environment
from polaris.train.underway import Notes

HERE = Path(__file__).parent


@pytest.mark.slow
def test_a_stopped_run_goes_on_elsewhere(tmp_path, monkeypatch):
    contexts = []

    def reply(request, number):
        if number == 7 and len(contexts) == 1:
            contexts[0].stop.signal = 15
        return answer(request, number)

    with fake_endpoint(reply) as judge:
        contexts.append(stage(tmp_path, judge.url, monkeypatch, max_steps=30))
        with pytest.raises(Stopped):
            run(contexts[0])
        stored = contexts[0].progress.folders()
        assert 1 <= len(stored) <= 2
        assert not contexts[0].output.entries
        # Another machine: nothing but the store is left.
        shutil.rmtree(tmp_path / "work")
        contexts.append(stage(tmp_path, judge.url, monkeypatch, max_steps=30))
        run(contexts[1])
    context = contexts[1]
    rows = [json.loads(line) for line in read_output(context, "metrics.jsonl").splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 31))
    assert context.counts["steps"] == 30
    assert context.counts["rows"] == 180
    assert context.counts["references"] == 58
    assert context.cost["calls"] >= len(judge.requests) - 6
    assert {"model/config.json", "model/model.safetensors", "model/chat_template.jinja"} <= set(
        context.output.entries
    )
    kept = context.progress.folders()
    assert "checkpoint-30" in kept
    assert len(kept) <= 2
    log = "".join(path.read_text() for path in tmp_path.rglob("worker.log"))
    assert not any(story in log for story in STORIES)
    assert "fake-key-of-a-test" not in log


@pytest.mark.slow
def test_a_spent_budget_stops_it_saved_and_raised_nothing_is_paid_twice(tmp_path, monkeypatch):
    with fake_endpoint(answer) as judge:
        # An answer of 5 tokens costs 0.005 US$: this is for 25, which end within a step.
        context = stage(tmp_path, judge.url, monkeypatch, budget_usd=0.125, max_steps=5, save_steps=100)
        with pytest.raises(
            BudgetError, match=r"^execute.budget_usd: value 0.125; .*; checkpoint-\d is saved$"
        ):
            run(context)
        spent = len(judge.requests)
        [stored] = context.progress.folders()
        rows = to_rows(context.progress.get("metrics.jsonl"), "")
        assert stored == f"checkpoint-{len(rows)}"
        assert 0.005 * spent <= 0.125
        books = spent_in(context.store, prefix_of(context.config))
        assert (books.spent, books.held) == (pytest.approx(0.005 * spent), 0)
        booked = json.loads(context.progress.get("spent.json"))
        assert booked["calls"] == spent - sum(row["judge/calls"] for row in rows) > 0
        # Another machine, and more money.
        shutil.rmtree(tmp_path / "work")
        context = stage(tmp_path, judge.url, monkeypatch, budget_usd=10.0, max_steps=5, save_steps=100)
        run(context)
    asked = [json.dumps(request["messages"]) for request in judge.requests]
    assert len(asked) == len(set(asked)), "an answer was paid for twice"
    assert context.cost["calls"] == len(asked)
    assert context.cost["usd"] == pytest.approx(0.005 * len(asked))
    assert (context.counts["judge_repaid"], context.counts["judge_failed"]) == (0, 0)
    assert context.cost["cached_calls"] >= booked["calls"]


def only_small_talk(request):
    """Answer what is too short to be a judgement's request, as a gateway with a short patience does."""
    small = len(request["messages"][0]["content"]) < 100
    return Reply("H", finish_reason="length") if small else refusal(500)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (
            lambda _: Reply("no judgement at all"),
            GuardError,
            "^the judge keeps failing: .*invalid answer.*",
        ),
        (lambda _: refusal(401), ConfigError, "^models.judge.api_key_env: .*"),
        (lambda _: refusal(500), TransientError, "^the judge is out: 6 .* answered 500.*"),
        (only_small_talk, TransientError, "^the judge is out: 6 .* answered 500.*"),
    ],
)
def test_a_judge_that_goes_bad_stops_it_with_a_checkpoint_in_the_store(
    tmp_path, monkeypatch, reply, error, message
):
    with fake_endpoint(lambda asked, number: answer(asked, number) if number < 6 else reply(asked)) as judge:
        reward = {"failed_window": 6, "max_failed_share": 0.4}
        context = stage(tmp_path, judge.url, monkeypatch, reward=reward, save_steps=100)
        with pytest.raises(error, match=f"{message}checkpoint-1 is saved$"):
            run(context)
    assert context.progress.folders() == ["checkpoint-1"]
    assert [row["step"] for row in to_rows(context.progress.get("metrics.jsonl"), "")] == [1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "error", "message"),
    [
        ({"code": 5, "says": "engine is stale: really", "exit": 1}, GuardError, "^engine is stale: really$"),
        ({"says": "Segmentation of a kind", "exit": 9}, RuntimeError, "Segmentation of a kind"),
    ],
)
def test_how_a_worker_ends_is_how_the_stage_ends(tmp_path, monkeypatch, end, error, message):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent.parent)]))
    (tmp_path / "end").write_text(json.dumps(end))
    trainer = Trainer(Job(*[tmp_path] * 4), 1, {}, worker="stub_worker")
    with pytest.raises(error, match=message):
        trainer.run(StopFlag(), lambda: None)


@pytest.mark.slow
def test_a_crash_while_a_process_is_taken_down_loses_no_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent.parent)]))
    (tmp_path / "end").write_text(json.dumps({"code": DONE, "says": "pure virtual method called", "exit": 1}))
    Trainer(Job(*[tmp_path] * 4), 1, {}, worker="stub_worker").run(StopFlag(), lambda: None)
    assert read_status(tmp_path)["code"] == DONE
    said = capsys.readouterr()
    assert "ended_badly" in said.out + said.err
    assert "pure virtual method called" in said.out + said.err


def test_worker_environment_leaves_what_the_user_set(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    found = worker_environment(2, {"X": "y"})
    assert (found["OMP_NUM_THREADS"], found["OMP_WAIT_POLICY"], found["X"]) == ("7", "passive", "y")


def checkpoint_of(context, step, *, local=False):
    """Lay a checkpoint and the rows up to it into the store, or into the work folder."""
    folder = context.work / "out" / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_text(f"weights {step}")
    write_layout(folder, Layout(1, 0))
    if not local:
        context.progress.put_folder(folder.name, folder)
        shutil.rmtree(folder)
    return folder


def damage(context, step):
    [path] = Path(context.store.url.removeprefix("file://")).rglob(f"checkpoint-{step}/weights")
    path.write_text(f"wEights {step}")


def test_a_corrupt_checkpoint_gives_way_to_the_one_before(tmp_path, monkeypatch, capsys):
    context = stage(tmp_path, "http://127.0.0.1:9/v1", monkeypatch)
    for step in (9, 10):
        checkpoint_of(context, step)
    damage(context, 10)
    folder = context.work / "out" / "checkpoints"
    assert restore(context, folder).name == "checkpoint-9"
    assert "checkpoint-10/weights does not match its sha256" in "".join(capsys.readouterr())
    # It will be made again, and then it must be uploaded again.
    assert context.progress.folders() == ["checkpoint-9"]


def test_nothing_is_begun_again_where_no_checkpoint_can_be_read(tmp_path, monkeypatch):
    context = stage(tmp_path, "http://127.0.0.1:9/v1", monkeypatch)
    for step in (9, 10):
        checkpoint_of(context, step)
        damage(context, step)
    with pytest.raises(InputError, match="checkpoint-10/weights does not match"):
        restore(context, context.work / "out" / "checkpoints")
    assert len(context.progress.folders()) == 2


def test_rows_are_stored_before_their_checkpoint(tmp_path, monkeypatch):
    context = stage(tmp_path, "http://127.0.0.1:9/v1", monkeypatch)
    job = Job(context.config_path, context.config_path, tmp_path, context.work / "out")
    folder = checkpoint_of(context, 1, local=True)
    (job.output / "metrics.jsonl").write_text('{"step": 1}\n')
    put, down = context.progress.put, [True]

    def failing(name, data):
        if name == "metrics.jsonl" and down[0]:
            raise TransientError("the store is away")
        put(name, data)

    monkeypatch.setattr(context.progress, "put", failing)
    uploads = Uploads(context, job)
    uploads._bring_up()
    assert [name for name in context.progress.names() if not name.startswith("tensorboard/")] == []
    down[0] = False
    uploads.finish()
    assert context.progress.get("metrics.jsonl") == b'{"step": 1}\n'
    assert context.progress.folders() == [folder.name]


def rows_of(*calls, **figures):
    """Return a row a step: so many paid calls of six, the others found in the cache."""
    rows = [{"step": i + 1, "judge/calls": n, "judge/cached": 6 - n} for i, n in enumerate(calls)]
    return [row | figures for row in rows]


def test_what_lost_steps_cost_and_met_is_counted_and_what_was_paid_for_again(tmp_path, monkeypatch):
    context = stage(tmp_path, "http://127.0.0.1:9/v1", monkeypatch)
    output = context.work / "out"
    (output / "model").mkdir(parents=True)
    path = output / "metrics.jsonl"

    def taken(rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    taken(rows_of(6, 6, 6, **{"judge/usd": 0.5, "judge/retries": 2}))
    rewind(context.progress, "metrics.jsonl", path, 1)
    # The second step finds four of its six answers in the cache, the third none: other stories.
    taken(rows_of(6, 2, 6, **{"judge/usd": 0.5}))
    notes = Notes(output, 0)
    notes.begin({"step": 4})
    notes.write({"judge/calls": 3, "judge/cached": 0, "judge/usd": 0.25, "judge/repairs": 1}, 0)
    book_unfinished(context, output)
    book_unfinished(context, output)
    # The fourth finds what it had paid for.
    fourth = {"judge/calls": 3, "judge/cached": 3, "judge/repairs": 2, "judge/schema_fallbacks": 1}
    taken([*rows_of(6, 2, 6), {"step": 4} | fourth])
    (output / "counts.json").write_text("{}")
    write(context, context.config.train, Job(*[path] * 3, output))
    assert context.cost["calls"] == 6 + 2 + 6 + 3 + (6 + 6 + 3)
    assert context.cost["usd"] == 0.5 + 0.5 + 0.25
    assert context.counts["judge_repaid"] == 2 + 6
    assert (context.counts["judge_retries"], context.counts["judge_repairs"]) == (4, 3)
    assert context.counts["judge_rate_limited"] == 0
    assert context.counts["judge_calls"] == 17
    assert any(
        note.endswith("enforces no JSON schema, so the judge gets it in its prompt") for note in context.notes
    )


def timed(*steps, at):
    """Rows of one taking of the steps, no two takings of which are alike."""
    return [{"step": step, "judge/calls": 6, "step_seconds": at + step / 10} for step in steps]


def test_a_kill_between_booking_a_row_and_dropping_it_changes_nothing(tmp_path, monkeypatch):
    context = stage(tmp_path, "http://127.0.0.1:9/v1", monkeypatch)
    path = tmp_path / "metrics.jsonl"
    checkpoint.write_metrics(path, timed(1, 2, 3, at=1))
    with monkeypatch.context() as killed:
        killed.setattr(checkpoint, "write_metrics", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            rewind(context.progress, "metrics.jsonl", path, 1)
    for _ in range(2):
        assert spent.read(context.progress)["paid"] == {"2": 6, "3": 6}
        rewind(context.progress, "metrics.jsonl", path, 1)
    assert checkpoint.read_metrics(path) == timed(1, at=1)


def test_rows_of_a_machine_that_comes_back_are_booked_once_and_the_stores_stand(tmp_path, monkeypatch):
    context = stage(tmp_path, "http://127.0.0.1:9/v1", monkeypatch)
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    checkpoint.write_metrics(first, timed(1, 2, 3, 4, at=1))
    # The fourth's row had not reached the store.
    context.progress.put("metrics.jsonl", from_rows(timed(1, 2, 3, at=1)))
    rewind(context.progress, "metrics.jsonl", second, 1)
    assert spent.read(context.progress)["paid"] == {"2": 6, "3": 6}
    taken = timed(1, at=1) + timed(2, 3, at=5)
    checkpoint.write_metrics(second, taken)
    context.progress.put("metrics.jsonl", from_rows(taken))
    rewind(context.progress, "metrics.jsonl", first, 3)
    assert checkpoint.read_metrics(first) == taken
    assert spent.read(context.progress)["paid"] == {"2": 6, "3": 6, "4": 6}


def test_the_card_of_the_run_is_written_beside_the_weights(tmp_path, monkeypatch):
    context = stage(tmp_path, "http://127.0.0.1:9/v1", monkeypatch)
    output = context.work / "out"
    (output / "model").mkdir(parents=True)
    (output / "model" / "model.safetensors").write_bytes(b"no weights")
    rows = rows_of(6, 6, **{"reward": 0.5, "hri/references": 2, "judge/usd": 0.25})
    (output / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (output / "counts.json").write_text('{"prompts": 4, "prompts_filtered": 1}')
    monkeypatch.setattr(type(context), "caveat", lambda _, judge: f"Judge '{judge}' means nothing.")
    write(context, context.config.train, Job(*[tmp_path] * 3, output))
    made = {name for name in context.output.entries if not name.startswith("tensorboard/")}
    assert made == {"model/model.safetensors", "model/README.md", "metrics.jsonl"}
    assert read_output(context, "model/model.safetensors") == b"no weights"
    told = read_output(context, "model/README.md").decode()
    assert told.startswith("---\nlibrary_name: transformers\n")
    for said in (
        f"`{context.instance.digest}`",
        f"`{context.inputs['data'].manifest.digest}`",
        context.run.identity_of_model("base"),
        "| model | `fake` |",
        "Judge 'judge' means nothing.",
        "| reward, last steps (`reward`) | 0.500 | 1 step |",
        "US$ | 0.50 | 2 steps |",
        "4 pairs of a prompt and a human's story to train on, 0 held back for validation; 1 of",
        "The books' licences are not recorded.",
    ):
        assert said in told, said
    assert not [secret for secret in (*STORIES, str(tmp_path), "fake-key-of-a-test") if secret in told]


def test_workers_train_by_the_configuration_that_the_digest_was_made_of(tmp_path, monkeypatch):
    monkeypatch.setenv("POLARIS__TRAIN__LEARNING_RATE", "3e-6")
    monkeypatch.setenv("POLARIS__RUN", '"007"')
    context = stage(tmp_path, "http://127.0.0.1:9/v1", monkeypatch)
    assert context.config.train.learning_rate == 3e-6
    job = prepare(context, context.config.train, Team())
    # An upgrade of the release while the workers start; the environment stays that of the stage.
    text = context.config_path.read_text()
    context.config_path.write_text(text.replace("group_size: 3", "group_size: 6"))
    assert load(context.config_path).train.group_size == 6
    assert context.config_path not in [Path(word.partition("=")[2]) for word in job.arguments()]
    seen = []
    monkeypatch.setattr(worker, "train", lambda job, config, stop: seen.append(config))
    monkeypatch.setattr(worker, "quieten", lambda: None)
    assert worker.main(job.arguments()) == 0
    assert seen == [context.config]
    # A second attempt on this machine writes it anew.
    context.config_path.chmod(0o444)
    assert prepare(context, context.config.train, Team()).config == job.config
    assert job.config.stat().st_mode & 0o600 == 0o600
    assert "fake-key-of-a-test" not in job.config.read_text()
