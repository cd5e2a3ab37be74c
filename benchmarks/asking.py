"""How is a runtime asked without HTTP, so that its logits are seen?"""

import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from model_runtime.generators.job import Done, Failed, Job
from model_runtime.generators.runtime import Runtime
from model_runtime.generators.sampling import SamplingOptions

_LONGEST = 3_600.0


@dataclass(frozen=True, slots=True)
class Answered:
    """`logits`: float32 [vocabulary], one for each token of the answer."""

    logits: list[Any]
    done: Done

    @property
    def tokens(self) -> list[int]:
        return [int(row.argmax()) for row in self.logits]


def answered(
    runtime: Runtime, prompt: Sequence[int], codec: str, *, most: int, policy: str | None = None, **more: Any
) -> Answered:
    """Greedily, alone. `policy`: of the namespace, where it is not the codec's name; `more`: fields of the job."""
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    options = SamplingOptions(temperature=0, max_tokens=most)
    namespace = runtime.namespace("benchmark", policy or codec)
    with _seen(runtime) as rows:
        runtime.engine.submit(Job(tuple(prompt), options, namespace, codec, events.put, **more))
        while not isinstance(event := events.get(timeout=_LONGEST), Done):
            if isinstance(event, Failed):
                raise RuntimeError(event.message)
    return Answered(rows, event)


@contextmanager
def _seen(runtime: Runtime) -> Iterator[list[Any]]:
    rows: list[Any] = []
    head = runtime.checkpoint.model.lm_head
    hook = head.register_forward_hook(lambda module, given, logits: rows.extend(logits.float().cpu().numpy()))
    try:
        yield rows
    finally:
        hook.remove()


def in_engine(runtime: Runtime, act: Any) -> Any:
    """What `act` returns when it runs between two turns."""
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    runtime.engine.errands.put(lambda: done.put(act()))
    return done.get(timeout=_LONGEST)


def settle(runtime: Runtime) -> None:
    """Until what was computed lies on the host and on disk."""
    while in_engine(runtime, lambda: runtime.cache.unwritten):
        pass
