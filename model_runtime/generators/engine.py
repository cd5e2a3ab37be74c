"""How do many answers share one model? One thread computes; answers take turns, and their next tokens go together.

Each turn is either one chunk of a prompt (up to the border of a block) or one token for every answer that is past its
prompt; the two alternate, so a long prompt does not stop the others. A block that another answer is computing is waited
for and then read (single flight). When there is nothing to compute, new blocks are copied to the host and the disk.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING, TypeVar

from model_runtime.generators.checkpoint import Checkpoint, logits, states
from model_runtime.generators.errands import Errands
from model_runtime.generators.job import Done, Failed, Job
from model_runtime.generators.places import PlaceOptions, Places
from model_runtime.generators.sequence import Answer, settled
from model_runtime.generators.sparse import begin_sparse, end_sparse
from model_runtime.kv.arena import Arena, ArenaFull
from model_runtime.kv.cache import KVCache
from model_runtime.kv.codecs import Codec
from model_runtime.kv.gate import Gate
from model_runtime.kv.residency import yielding
from model_runtime.kv.retrieval import Retrieval, SparseCounts, SparsePolicy
from model_runtime.kv.sequence import SequenceKV
from model_runtime.kv.sessions import Sessions
from model_runtime.kv.shape import BLOCK
from model_runtime.kv.staging import BlockLost
from model_runtime.kv.tails import TailFiles, TailKey, Tails

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_LAST_WRITES = 2.0
"""Seconds for what is not on disk yet when the service stops."""
_STOPPED = "the service is stopping"
_MOST_LOSSES = 4
"""So often one block may get lost to one answer before that fails."""
_PURGED = "what it read was purged meanwhile"

logger = logging.getLogger(__name__)


def _wake_up() -> None:
    """Looks who came."""


def _tail_key(answer: Answer) -> TailKey:
    return answer.job.namespace, None if answer.last is None else answer.last.block_id


class Purged(Exception):
    """An answer read what is no longer there."""


class Engine:
    """`start()`, `submit()` from any thread, `stop()`. The thread owns the cache and the arena."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        arena: Arena,
        cache: KVCache,
        gate: Gate,
        codecs: Callable[[str], Codec],
        *,
        sessions: Sessions,
        tail_files: TailFiles | None = None,
        places: PlaceOptions | None = None,
        threads: int | None = None,
        sparse: SparsePolicy,
    ) -> None:
        self.checkpoint = checkpoint
        self.cache = cache
        self.sessions = sessions
        self.tails = Tails(arena, tail_files, self._slot)
        self._arena = arena
        self._gate = gate
        self._codecs = codecs
        self._threads = threads
        self._sparse = sparse
        self.sparse = SparseCounts()
        self.errands = Errands(self._entered)
        """The only way to the cache from outside."""
        self._places = Places(places or PlaceOptions())
        self._answers: list[Answer] = []
        self.computed_tokens = 0
        self.written_tokens = 0
        self.prefill_seconds = 0.0
        self.decode_seconds = 0.0
        self._decode_next = False
        self._stopping = False
        self._ended = False
        self._forgotten: dict[bytes | str, float] = {}  # when, by namespace and by tenant
        self._thread = threading.Thread(target=self._main, name="generate", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Raises QueueFull."""
        self._places.enter(job)
        self.errands.put(_wake_up)

    def stop(self, timeout: float = 5.0) -> bool:
        """Answers in the making fail. False: the thread still computes."""
        self._stopping = True
        self.errands.put(_wake_up)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def answering(self) -> int:
        return len(self._answers)

    @property
    def waiting(self) -> int:
        return self._places.waiting

    def _main(self) -> None:
        import torch

        if self._threads:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                while not self._stopping:
                    self._listen()
                    self._turn()
                self._write_the_rest()
        except Exception:
            logger.exception("the model's thread has ended: nothing is generated until a restart")
        finally:
            self._ended = True
            self._refuse_all()

    def _write_the_rest(self) -> None:
        until = time.monotonic() + _LAST_WRITES
        while time.monotonic() < until and self._write_behind():
            pass
        self.tails.close()

    def _entered(self) -> None:
        if self._ended:
            self._refuse_all()

    def _refuse_all(self) -> None:
        """Nobody waits for a thread that has ended; calls are still done, by whoever comes."""
        for job in [*(answer.job for answer in self._answers), *self._places.drain()]:
            job.emit(Failed(_STOPPED))
        self._answers = []
        self.errands.finish(_STOPPED)

    def _write_behind(self) -> bool:
        try:
            return self.cache.write_behind()
        except Exception:
            logger.exception("a block could not be copied off the device")
            return True

    def _listen(self) -> None:
        """Takes what came in; waits for it when there is nothing to compute or to copy."""
        while not self._stopping:
            if self.errands.take(wait=False):
                continue
            while job := self._places.next([answer.job for answer in self._answers], self._arena.slots - 1):
                self._admit(job)
            went_on = self.errands.step()
            if self._answers:
                return
            if not went_on and not self._write_behind():
                self.errands.take(wait=True)

    def _turn(self) -> None:
        self._sweep_cancelled()
        answers = [answer for answer in self._answers if not answer.job.warm] or self._answers
        prefilling = [answer for answer in answers if answer.prefilling]
        decoding = [answer for answer in answers if not answer.prefilling]
        if decoding and (self._decode_next or not prefilling):
            self._decode_next = False
            self._decode(decoding)
        elif prefilling:
            self._decode_next = True
            self._prefill(prefilling)

    def _admit(self, job: Job) -> None:
        if job.cancelled.is_set():
            job.emit(Done("cancelled", len(job.prompt), 0, dict.fromkeys(("device", "host", "disk"), 0), 0.0, 0.0))
            return
        if job.prepared <= max(self._forgotten.get(name, -math.inf) for name in (job.namespace, job.tenant)):
            job.emit(Failed(_PURGED))
            return
        job = settled(job, self.cache, self._codecs(job.codec))
        self.overtake(job.session)
        retrieval = Retrieval(self._sparse, self._arena, self.sparse) if job.sparse else None
        kv = SequenceKV(self._arena, self.cache.reading.stream, self.cache.reading.at_once, retrieval)
        answer = Answer(job, self.checkpoint, self.cache, kv, self._codecs(job.codec))
        self._answers.append(answer)
        with self._only_this_fails(answer):
            self._look_up(answer)
            self._continue_tail(answer)

    def overtake(self, session: tuple[str, str | None]) -> None:
        """In the engine's thread: what is computed ahead of this session comes to nothing."""
        self._places.overtake(session)
        for answer in self._answers:
            if answer.job.warm and answer.job.session == session:
                answer.job.cancelled.set()

    def _look_up(self, answer: Answer) -> None:
        """Reads what is known from where the answer stands. The last token is always computed: it asks for the next."""
        tokens = answer.tokens[: len(answer.tokens) - 1]
        known = self.cache.match(answer.job.namespace, tokens, answer.codec, answer.last)
        trusted = list(takewhile(lambda node: node.slot is not None or not answer.losses[node.block_id], known))
        if trusted:
            answer.adopt(self.cache.lease(trusted))

    def _continue_tail(self, answer: Answer) -> None:
        begun = time.perf_counter()
        tail = self.tails.find(_tail_key(answer))
        if tail is None:
            return
        rest = answer.tokens[answer.kv.length : len(answer.tokens) - 1]
        same = next((n for n, (a, b) in enumerate(zip(tail.tokens, rest, strict=False)) if a != b), None)
        same = min(len(tail.tokens), len(rest)) if same is None else same
        if same:
            answer.kv.own = self._slot()
            self._arena.copy(tail.slot, answer.kv.own, same)
            answer.copied(same, tail.tier, time.perf_counter() - begun)
            self.cache.counts.hits[tail.tier] += same
            tail.tier = "device"

    def _prefill(self, waiting: list[Answer]) -> None:
        """One chunk of the first that can go on. What it computes, the others of its prefix read in their turn."""
        for answer in waiting:
            with self._only_this_fails(answer):
                if not answer.kv.length % BLOCK:
                    self._look_up(answer)
                self._chunk(answer)
                self._waited(answer, waiting)
                return

    def _waited(self, answer: Answer, waiting: list[Answer]) -> None:
        """First come, first served, but nobody twice before the others."""
        if len(waiting) > 1 and answer in self._answers:
            self._answers.remove(answer)
            self._answers.append(answer)

    def _chunk(self, answer: Answer) -> None:
        if answer.kv.own is None:
            answer.kv.own = self._slot()
        begun = time.perf_counter()
        chunk = answer.next_chunk(BLOCK)
        hidden = self._forward([answer], [chunk])
        last = answer.kv.length + len(chunk) == len(answer.tokens)
        warmed = last and answer.job.warm
        scores = logits(self.checkpoint, hidden[:, -1]) if last and not warmed else None
        answer.computed(len(chunk))
        seconds = time.perf_counter() - begun
        self.computed_tokens += len(chunk)
        self.prefill_seconds += seconds
        answer.prefill_seconds += seconds
        self._gate.measured_prefill(len(chunk), seconds)
        if scores is not None:
            self._take(answer, scores[0])
        elif warmed:
            self._finish(answer)
            answer.job.emit(answer.done("warmed"))

    def _decode(self, answers: list[Answer]) -> None:
        ready = []
        for answer in answers:
            with self._only_this_fails(answer):
                if answer.kv.own is None:
                    answer.kv.own = self._slot()
                if answer.job.sparse:
                    begin_sparse(answer.kv, self.cache, self._room)
                ready.append(answer)
        if not ready:
            return
        begun = time.perf_counter()
        try:
            hidden = self._forward(ready, [answer.next_chunk(1) for answer in ready])
            scores = logits(self.checkpoint, hidden[:, -1])
        except BlockLost as lost:  # what the others wrote is written again in the next turn
            for answer in [answer for answer in ready if lost.node in answer.kv.blocks]:
                self._compute_again(answer, lost)
            return
        except Exception as error:  # one forward pass for all of them
            for answer in ready:
                self.fail(answer, error)
            return
        self.decode_seconds += time.perf_counter() - begun
        for answer, row in zip(ready, scores, strict=True):
            with self._only_this_fails(answer):
                if answer.job.sparse:
                    end_sparse(answer.kv, self.cache)
                answer.computed(1)
                self._take(answer, row)

    def _forward(self, answers: list[Answer], chunks: list[list[int]]) -> "torch.Tensor":
        """The last hidden states: [answers, tokens of a chunk, hidden]."""
        return states(self.checkpoint, chunks, [answer.kv for answer in answers])

    def _take(self, answer: Answer, scores: "torch.Tensor") -> None:
        reason = answer.take(scores)
        self.written_tokens += 1
        if reason is not None:
            self._finish(answer)
            answer.job.emit(answer.done(reason))

    def _finish(self, answer: Answer) -> None:
        """Its blocks stay known; its unfinished one stays for the next turn."""
        self._answers.remove(answer)
        job, end = answer.job, answer.kv.length
        tail = tuple(answer.tokens[end - end % BLOCK : end])
        if job.memory_key is not None and not job.cancelled.is_set():
            self.sessions.record((job.tenant, job.memory_key), job.namespace, job.policy, answer.kv.blocks, tail)
        if tail and answer.kv.own is not None:
            own, answer.kv.own = answer.kv.own, None
            self.tails.put(_tail_key(answer), tail, own)
        answer.let_go()

    def _slot(self) -> int:
        """Summaries go before a request fails. Raises ArenaFull."""
        try:
            return self._room()
        except ArenaFull:
            dropped = [answer for answer in self._answers if answer.drop_summaries()]
            if not dropped:
                raise
            return self._room()

    def _room(self) -> int:
        """A slot; for it a tail goes, then a block that is read moves down. Raises ArenaFull."""
        while True:
            try:
                return self.cache.slot()
            except ArenaFull:
                if not self.tails.give_up_one() and not self.cache.move_down(
                    yielding([answer.kv.blocks for answer in self._answers])
                ):
                    raise

    def _sweep_cancelled(self) -> None:
        for answer in [answer for answer in self._answers if answer.job.cancelled.is_set()]:
            self._finish(answer)
            answer.job.emit(answer.done("cancelled"))

    @contextmanager
    def _only_this_fails(self, answer: Answer) -> Iterator[None]:
        try:
            yield
        except BlockLost as lost:
            self._compute_again(answer, lost)
        except Exception as error:
            self.fail(answer, error)

    def _compute_again(self, answer: Answer, lost: BlockLost) -> None:
        """From the last block before the one that could not be read."""
        self.cache.lost(lost.node, damaged=lost.damaged)
        answer.losses[lost.node.block_id] += 1
        if answer.losses[lost.node.block_id] > _MOST_LOSSES or lost.node not in answer.kv.blocks:
            self.fail(answer, lost)
        else:
            answer.rewind(lost.node.index)

    def forget(self, namespaces: frozenset[bytes], tenant: str | None = None) -> int:
        """In the engine's thread. Answers that read what must go fail: they may be asked again.

        `tenant`: all that it has claimed goes as well, and what nobody has claimed since the start.
        """
        if tenant is not None:
            namespaces |= self.cache.holdings.shares.taken_from(tenant, self.tails.resting())
            self._forgotten[tenant] = time.monotonic()
        # Prompts that were put together before this moment may hold it as well.
        self._forgotten |= dict.fromkeys(namespaces, time.monotonic())
        for answer in [answer for answer in self._answers if answer.job.namespace in namespaces]:
            self.fail(answer, Purged(_PURGED))
        self.tails.forget(namespaces)
        self.sessions.forget(namespaces)
        return self.cache.forget(namespaces)

    def fail(self, answer: Answer, error: Exception) -> None:
        logger.warning("an answer failed: %s", type(error).__name__, exc_info=error)
        if answer in self._answers:
            self._answers.remove(answer)
            answer.let_go()
        told = isinstance(error, ArenaFull | BlockLost | Purged)
        answer.job.emit(Failed(str(error) if told else "an error of the runtime; the log has it"))
