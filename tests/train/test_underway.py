"""What a step's judge calls cost is known after a kill, and booked once; the endpoint is FAKE."""

import asyncio
import json
from pathlib import Path

import pytest
from fake_endpoint import Reply, error, fake_endpoint
from fakes import stage

from polaris.answers import Cache
from polaris.chat import ChatRequest, Endpoint, Prices
from polaris.llm import ChatClient
from polaris.storage import FileStore
from polaris.train.job import Job
from polaris.train.spent import rewind
from polaris.train.stage import book_unfinished
from polaris.train.underway import Notes, forget, read, untold
from polaris.train.uploads import Uploads

NOWHERE = "http://127.0.0.1:9/v1"


def note(output, step, calls, *, rank=0, in_flight=0):
    notes = Notes(output, rank)
    notes.begin({"step": step})
    notes.write({"judge/calls": calls, "judge/cached": 0, "judge/usd": 0.5 * calls}, in_flight)
    return notes


def spent(context):
    return json.loads(context.progress.get("spent.json") or b"{}")


def test_the_last_whole_line_of_the_step_counts(tmp_path):
    notes = note(tmp_path, 3, 1)
    notes.write({"judge/calls": 2}, 1)
    path = tmp_path / "under-way" / "0.jsonl"
    path.write_text(path.read_text() + '{"start": "cut off')
    [found] = read(tmp_path)
    assert (found["step"], found["judge/calls"], found["in_flight"]) == (3, 2, 1)
    notes.begin({"step": 4})
    assert read(tmp_path) == [found], "it is kept until the next step's calls begin"
    notes.write({"judge/calls": 1}, 0)
    assert [line["step"] for line in read(tmp_path)] == [4]
    forget(tmp_path)
    forget(tmp_path)
    assert read(tmp_path) == []


def test_of_a_start_the_latest_note_counts_and_of_a_step_with_a_row_none():
    notes = [{"start": "a", "step": 2}, {"start": "b", "step": 3}, {"start": "a", "step": 3, "later": True}]
    assert untold(notes, ["1", "2"]) == [notes[2], notes[1]]
    assert untold(notes, ["1", "2", "3"]) == []


def test_a_machine_that_is_gone_leaves_its_notes_in_the_store_and_they_are_booked_once(tmp_path, monkeypatch):
    context = stage(tmp_path, NOWHERE, monkeypatch)
    output = context.work / "out"
    note(output, 3, 3)
    note(output, 3, 2, rank=1, in_flight=1)
    Uploads(context, Job(*[tmp_path] * 3, output)).finish()
    copy = context.progress.get("under-way-0.json")
    assert len(json.loads(copy)) == 2
    forget(output)
    book_unfinished(context, output)
    assert (spent(context)["calls"], spent(context)["usd"], spent(context)["paid"]) == (5, 2.5, {"3": 6})
    # The copy comes again: an upload was on its way.
    context.progress.put("under-way-0.json", copy)
    book_unfinished(context, output)
    assert spent(context)["calls"] == 5
    assert context.progress.names("under-way") == []


def test_a_step_with_a_row_is_not_booked_for_its_notes_too(tmp_path, monkeypatch):
    context = stage(tmp_path, NOWHERE, monkeypatch)
    output = context.work / "out"
    note(output, 2, 6)
    path = output / "metrics.jsonl"
    path.write_text('{"step": 1, "judge/calls": 6}\n{"step": 2, "judge/calls": 6}\n')
    book_unfinished(context, output)
    rewind(context.progress, "metrics.jsonl", path, 1)
    assert (spent(context)["calls"], spent(context)["paid"]) == (6, {"2": 6})


@pytest.mark.parametrize("status", [200, 400])
def test_an_attempt_is_told_of_before_it_is_sent_and_once_it_is_booked(status):
    told, seen = [], []

    def reply(request, number):
        seen.append(told[-1])
        return Reply("yes") if status == 200 else error(status)

    async def ask(client):
        async with client:
            await client.complete(ChatRequest(({"role": "user", "content": "Is it?"},), max_tokens=8))

    with fake_endpoint(reply) as endpoint:
        client = ChatClient(Endpoint(endpoint.url, "m", "fake", api_key="k"), prices=Prices(completion=1e6))
        client.on_spending = lambda: told.append((len(client.in_flight), client.usage.calls))
        if status == 200:
            asyncio.run(ask(client))
        else:
            with pytest.raises(Exception, match="400"):
                asyncio.run(ask(client))
    assert seen == [(1, 0)]
    assert told == [(1, 0), (0, int(status == 200))]


def test_an_answer_that_was_kept_is_told_of_at_once(tmp_path):
    told = []
    request = ChatRequest(({"role": "user", "content": "Is it?"},), max_tokens=8)

    async def ask(client):
        async with client:
            await client.complete(request)

    with fake_endpoint(lambda request, number: Reply("yes")) as endpoint:
        for _ in range(2):
            client = ChatClient(Endpoint(endpoint.url, "m", "fake"), cache=Cache(FileStore(tmp_path)))
            client.on_spending = lambda client=client: told.append(
                (client.usage.calls, client.usage.cached_calls)
            )
            asyncio.run(ask(client))
    assert told == [(0, 0), (1, 0), (0, 1)]


def test_a_folder_that_goes_while_it_is_listed_holds_no_notes(tmp_path, monkeypatch):
    note(tmp_path, 1, 1)
    listed = Path.iterdir

    def late(folder):
        forget(tmp_path)
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", late)
    assert read(tmp_path) == []
