"""How do other threads get something done in the engine's thread, between two turns of the answers?

At once and in one go, or, where it takes longer, in steps of which each waits for a turn. Who asked can't cancel:
somebody who has gone must not stop the thread when it hands over the result.
"""

import queue
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Errand:
    steps: Generator[None, None, Any]
    done: "Future[Any]"


class Errands:
    """`put`, `ask` and `run` from any thread, the others from the engine's. `entered`: called after each that came."""

    def __init__(self, entered: Callable[[], None]) -> None:
        self._entered = entered
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stepwise: deque[_Errand] = deque()

    def put(self, act: Callable[[], None]) -> None:
        """What it raises ends the thread."""
        self._calls.put(act)
        self._entered()

    def ask(self, act: Callable[[], T]) -> "Future[T]":
        """What `act` returns, or raises."""
        done: Future[T] = _promised()

        def answer() -> None:
            try:
                done.set_result(act())
            except Exception as error:
                done.set_exception(error)

        self.put(answer)
        return done

    def run(self, steps: Generator[None, None, T]) -> "Future[T]":
        """What it returns, or raises, after its last step."""
        done: Future[T] = _promised()
        self.put(lambda: self._stepwise.append(_Errand(steps, done)))
        return done

    def take(self, *, wait: bool) -> bool:
        """Does what came first. False: nothing did."""
        try:
            act = self._calls.get(block=wait)
        except queue.Empty:
            return False
        act()
        return True

    def step(self) -> bool:
        """A step of the one that waited longest. False: nothing is to be done."""
        if not self._stepwise:
            return False
        errand = self._stepwise.popleft()
        try:
            next(errand.steps)
        except StopIteration as end:
            errand.done.set_result(end.value)
        except Exception as error:
            errand.done.set_exception(error)
        else:
            self._stepwise.append(errand)
        return True

    def finish(self, why: str) -> None:
        """Does what came in one go, and refuses the rest."""
        while self.take(wait=False):
            pass
        while self._stepwise:
            errand = self._stepwise.popleft()
            errand.steps.close()
            errand.done.set_exception(RuntimeError(why))


def _promised() -> "Future[Any]":
    done: Future[Any] = Future()
    done.set_running_or_notify_cancel()
    return done
