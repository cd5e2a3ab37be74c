"""Between the model's thread and an event loop: nothing is lost, nothing grows, and nobody waits for who has gone."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from model_runtime.generators import ask as asking
from model_runtime.generators.ask import Asked, Busy, Question, TooLong, TooMany, ask
from model_runtime.generators.job import Done, Failed, Job, Text
from model_runtime.generators.places import QueueFull
from model_runtime.generators.sampling import SamplingOptions

DONE = Done("stop", 1, 2, {}, 0.0, 0.0)
QUESTION = Question([{"role": "user", "content": "x"}], SamplingOptions(), "salt", "exact")


class Runtime:
    """As much of a runtime as a question needs; its engine takes jobs and does nothing."""

    def __init__(self):
        self.jobs: list[Job] = []
        self.checkpoint = SimpleNamespace(max_tokens=100)
        self.engine = SimpleNamespace(running=True, waiting=0, submit=self.jobs.append)
        self.chat = SimpleNamespace(ids=lambda messages: list(range(len(messages[0]["content"]))))

    def capacity(self, codec):
        return 80 if codec == "int8" else 512

    def namespace(self, salt, policy):
        return f"{salt}/{policy}".encode()

    def since(self, moment):
        return 7.0 if moment == "now" else None


@pytest.fixture
def runtime():
    return Runtime()


async def test_who_reads_slowly_gets_larger_pieces_and_then_the_end(runtime):
    asked = await ask(runtime, QUESTION)
    (job,) = runtime.jobs

    def write():
        for n in range(100):
            job.emit(Text(f"{n} "))
        job.emit(DONE)

    writer = threading.Thread(target=write)
    writer.start()
    writer.join()
    assert await asked.next() == Text("".join(f"{n} " for n in range(100)))
    assert await asked.next() == DONE
    assert await asked.next() == DONE


async def test_who_stops_reading_is_not_written_for(runtime, monkeypatch):
    monkeypatch.setattr(asking, "_MOST_UNREAD", 50)
    asked = await ask(runtime, QUESTION)
    (job,) = runtime.jobs
    for _ in range(100):
        job.emit(Text("0123456789"))
    await asyncio.sleep(0)
    assert job.cancelled.is_set()
    assert await asked.next() == Failed("nobody reads the answer")


async def test_a_wait_that_is_given_up_loses_nothing(runtime):
    asked = await ask(runtime, QUESTION)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asked.next(), 0.01)
    runtime.jobs[0].emit(Text("late"))
    assert await asked.next() == Text("late")


async def test_a_prompt_of_now_knows_when_it_was_put_together_and_one_of_another_runtime_is_refused(runtime):
    await ask(runtime, Question(QUESTION.messages, QUESTION.options, "salt", "exact", "now"))
    assert runtime.jobs[0].prepared == 7.0
    with pytest.raises(Busy, match="started anew"):
        await ask(runtime, Question(QUESTION.messages, QUESTION.options, "salt", "exact", "before"))


def refusing(error):
    def submit(job):
        raise error

    return submit


async def test_what_cant_be_asked_is_refused_before_it_is_begun(runtime):
    with pytest.raises(TooLong, match="100"):
        await ask(runtime, Question([{"role": "user", "content": "x" * 100}], QUESTION.options, "salt", "exact"))
    with pytest.raises(TooLong, match="hold the KV of 80"):
        await ask(runtime, Question([{"role": "user", "content": "x" * 90}], QUESTION.options, "salt", "int8"))
    for of_tenant, error in ((False, Busy), (True, TooMany)):
        runtime.engine.submit = refusing(QueueFull(of_tenant=of_tenant))
        with pytest.raises(error, match="too many"):
            await ask(runtime, QUESTION)
    runtime.engine.running = False
    with pytest.raises(Busy, match="ended"):
        await ask(runtime, QUESTION)
    assert not runtime.jobs


async def test_words_for_a_loop_that_is_closed_are_dropped():
    made = []

    def listen():
        async def make():
            made.append(Asked())

        asyncio.run(make())

    await asyncio.to_thread(listen)
    made[0].put(Text("nobody"))
