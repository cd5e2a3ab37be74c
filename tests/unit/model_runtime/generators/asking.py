"""How do the tests ask an engine? Prompts of random bytes, answers to the end."""

import queue
import random
import time

from model_runtime.generators.job import Job, Text
from model_runtime.generators.sampling import SamplingOptions

GREEDY = SamplingOptions(temperature=0, max_tokens=12)
MIB = 1 << 20
"""Of the fixture also a block: 2 layers x 1 head x (K, V) x 512 x 128 x 4 bytes."""


def prompt(length, seed=0):
    drawn = random.Random(seed)
    return tuple(drawn.randrange(256) for _ in range(length))


class Asked:
    def __init__(self, runtime, tokens, options=GREEDY, salt="salt", codec="exact", policy=None, **facts):
        self.events = queue.Queue()
        namespace = runtime.namespace(salt, policy or codec)
        self.job = Job(tuple(tokens), options, namespace, codec, self.events.put, sparse=policy == "sparse", **facts)
        runtime.engine.submit(self.job)

    def answer(self, timeout=60):
        """The text and how it ended."""
        text = ""
        while True:
            event = self.events.get(timeout=timeout)
            if not isinstance(event, Text):
                return text, event
            text += event.text


def ask(runtime, tokens, **options):
    return Asked(runtime, tokens, **options).answer()


def in_engine(runtime, act):
    """What `act` returns when it is run between two turns."""
    done = queue.Queue()
    runtime.engine.errands.put(lambda: done.put(act()))
    return done.get(timeout=30)


def settle(runtime):
    """Until every block that is full lies on the disk."""
    for _ in range(200):
        if not in_engine(runtime, lambda: runtime.cache.unwritten):
            return
        time.sleep(0.02)
    raise AssertionError("blocks were never written")
