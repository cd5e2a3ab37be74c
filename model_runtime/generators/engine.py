"""How do many answers share one model? One thread computes; answers take turns, and their next tokens go together.

Each turn is either one chunk of a prompt (up to the border of a block) or one token for every answer that is past its
prompt; the two alternate, so a long prompt does not stop the others. A block that another answer is computing is waited
for and then read (single flight). When there is nothing to compute, new blocks are copied to the host and the disk.
"""

import logging
import math
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from model_runtime.generators.checkpoint import Checkpoint, logits
from model_runtime.generators.job import Done, Failed, Job
from model_runtime.generators.sequence import Answer
from model_runtime.kv.arena import Arena, ArenaFull
from model_runtime.kv.cache import KVCache
from model_runtime.kv.codecs import Codec
from model_runtime.kv.gate import Gate
from model_runtime.kv.residency import yielding
from model_runtime.kv.retrieval import Retrieval, SparseCounts, SparsePolicy
from model_runtime.kv.sequence import SequenceKV
from model_runtime.kv.shape import BLOCK
from model_runtime.kv.staging import BlockLost

if TYPE_CHECKING:
    import torch

_MOST_ANSWERS = 64
_TAILS = 8
_LAST_WRITES = 2.0
"""Seconds for what is not on disk yet when the service stops."""
_STOPPED = "the service is stopping"
_SUMMARIES = 64
_MOST_LOSSES = 4
"""So often one block may get lost to one answer before that fails."""
_PURGED = "what it read was purged meanwhile"

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Tail:
    """The beginning of a block that is not full, left by an answer: the next turn of the conversation goes on there."""

    tokens: tuple[int, ...]
    slot: int


def _tail_key(answer: Answer) -> tuple[bytes, bytes | None]:
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
        threads: int | None = None,
        sparse: SparsePolicy,
    ) -> None:
        self.checkpoint = checkpoint
        self.cache = cache
        self._arena = arena
        self._gate = gate
        self._codecs = codecs
        self._threads = threads
        self._sparse = sparse
        self.sparse = SparseCounts()
        self._waiting: queue.SimpleQueue[Job | Callable[[], None] | None] = queue.SimpleQueue()
        self._held: list[Job] = []
        self._answers: list[Answer] = []
        self._tails: OrderedDict[tuple[bytes, bytes | None], _Tail] = OrderedDict()
        self.computed_tokens = 0
        self.written_tokens = 0
        self._decode_next = False
        self._stopping = False
        self._ended = False
        self._forgotten: dict[bytes, float] = {}
        self._thread = threading.Thread(target=self._main, name="generate", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: Job) -> None:
        self._waiting.put(job)
        if self._ended:
            self._refuse_all()

    def call(self, act: Callable[[], None]) -> None:
        """Runs `act` in the engine's thread, between two turns: the only way to the cache from outside."""
        self._waiting.put(act)
        if self._ended:
            self._refuse_all()

    def stop(self, timeout: float = 5.0) -> bool:
        """Answers in the making fail. False: the thread still computes."""
        self._stopping = True
        self._waiting.put(None)
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
        return len(self._held) + self._waiting.qsize()

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

    def _refuse_all(self) -> None:
        """Nobody waits for a thread that has ended; calls are still done, by whoever comes."""
        for job in [*(answer.job for answer in self._answers), *self._held]:
            job.emit(Failed(_STOPPED))
        self._answers, self._held = [], []
        while True:
            try:
                found = self._waiting.get_nowait()
            except queue.Empty:
                return
            if callable(found):
                found()
            elif found is not None:
                found.emit(Failed(_STOPPED))

    def _write_behind(self) -> bool:
        try:
            return self.cache.write_behind()
        except Exception:
            logger.exception("a block could not be copied off the device")
            return True

    def _listen(self) -> None:
        """Takes what came in; waits for it when there is nothing to compute or to copy."""
        while not self._stopping:
            idle = not self._answers and not self._held
            try:
                found = self._waiting.get(block=idle and not self._write_behind())
            except queue.Empty:
                if idle:
                    continue
                break
            if callable(found):
                found()
            elif found is not None:
                self._held.append(found)
        while self._held and len(self._answers) < min(_MOST_ANSWERS, self._arena.slots - 1):
            self._admit(self._held.pop(0))

    def _turn(self) -> None:
        self._sweep_cancelled()
        prefilling = [answer for answer in self._answers if answer.prefilling]
        decoding = [answer for answer in self._answers if not answer.prefilling]
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
        if job.prepared <= self._forgotten.get(job.namespace, -math.inf):
            job.emit(Failed(_PURGED))
            return
        retrieval = Retrieval(self._sparse, self._arena, self.sparse) if job.sparse else None
        kv = SequenceKV(self._arena, self.cache.stream, self.cache.streamed_at_once, retrieval)
        answer = Answer(job, self.checkpoint, self.cache, kv, self._codecs(job.codec))
        self._answers.append(answer)
        with self._only_this_fails(answer):
            self._look_up(answer)
            self._continue_tail(answer)

    def _look_up(self, answer: Answer) -> None:
        """Reads what is known from where the answer stands. The last token is always computed: it asks for the next."""
        tokens = answer.tokens[: len(answer.tokens) - 1]
        known = self.cache.match(answer.job.namespace, tokens, answer.codec, answer.last)
        trusted = list(takewhile(lambda node: node.slot is not None or not answer.losses[node.block_id], known))
        if trusted:
            answer.adopt(self.cache.lease(trusted))

    def _continue_tail(self, answer: Answer) -> None:
        key = _tail_key(answer)
        tail = self._tails.get(key)
        if tail is None:
            return
        rest = answer.tokens[answer.kv.length : len(answer.tokens) - 1]
        same = next((n for n, (a, b) in enumerate(zip(tail.tokens, rest, strict=False)) if a != b), None)
        same = min(len(tail.tokens), len(rest)) if same is None else same
        if same:
            self._tails.move_to_end(key)
            answer.kv.own = self._slot()
            self._arena.copy(tail.slot, answer.kv.own, same)
            answer.copied(same)

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
        scores = logits(self.checkpoint, hidden[:, -1]) if last else None
        answer.computed(len(chunk))
        seconds = time.perf_counter() - begun
        self.computed_tokens += len(chunk)
        answer.prefill_seconds += seconds
        self._gate.measured_prefill(len(chunk), seconds)
        if scores is not None:
            self._take(answer, scores[0])

    def _decode(self, answers: list[Answer]) -> None:
        ready = []
        for answer in answers:
            with self._only_this_fails(answer):
                if answer.kv.own is None:
                    answer.kv.own = self._slot()
                if answer.kv.retrieval is not None:
                    self._begin_sparse(answer, answer.kv.retrieval)
                ready.append(answer)
        if not ready:
            return
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
        for answer, row in zip(ready, scores, strict=True):
            with self._only_this_fails(answer):
                if answer.kv.retrieval is not None:
                    self._end_sparse(answer, answer.kv.retrieval)
                answer.computed(1)
                self._take(answer, row)

    def _begin_sparse(self, answer: Answer, retrieval: Retrieval) -> None:
        """Some summaries a step: to make those of blocks that are not on the device they are read once."""
        blocks, summaries = answer.kv.blocks, retrieval.summaries
        goal = min(len(blocks), summaries.count + _SUMMARIES) if retrieval.due(answer.kv.length) else 0
        with suppress(ArenaFull):
            while summaries.count < goal:
                if not summaries.room:
                    summaries.slots.append(self._room())
                summaries.add(self.cache.summary(blocks[summaries.count]))
        retrieval.begin(len(blocks), answer.kv.length)

    def _end_sparse(self, answer: Answer, retrieval: Retrieval) -> None:
        """A block that is retrieved again and again comes to the device, in place of one that is not."""
        retrieval.end()
        place = retrieval.worth_keeping_close()
        if place is not None:
            node = answer.kv.blocks[place]
            idle = (other for other in yielding([answer.kv.blocks]) if other.last_use < node.last_use)
            self.cache.bring(node, idle)

    def _forward(self, answers: list[Answer], chunks: list[list[int]]) -> "torch.Tensor":
        """The last hidden states: [answers, tokens of a chunk, hidden]."""
        import torch

        device = self.checkpoint.device
        ids = torch.tensor(chunks, device=device)
        starts = torch.tensor([[answer.kv.length] for answer in answers], device=device)
        found: Any = self.checkpoint.model.model(
            input_ids=ids,
            position_ids=starts + torch.arange(ids.shape[1], device=device),
            use_cache=False,
            kv=[answer.kv for answer in answers],
        )
        states: torch.Tensor = found.last_hidden_state
        return states

    def _take(self, answer: Answer, scores: "torch.Tensor") -> None:
        reason = answer.take(scores)
        self.written_tokens += 1
        if reason is not None:
            self._finish(answer)
            answer.job.emit(answer.done(reason))

    def _finish(self, answer: Answer) -> None:
        """Its blocks stay known; its unfinished one stays for the next turn."""
        self._answers.remove(answer)
        rest = answer.kv.length % BLOCK
        if rest and answer.kv.own is not None:
            key = _tail_key(answer)
            if old := self._tails.pop(key, None):
                self.cache.give_back(old.slot)
            own, answer.kv.own = answer.kv.own, None
            self._tails[key] = _Tail(tuple(answer.tokens[answer.kv.length - rest : answer.kv.length]), own)
        answer.let_go()
        if len(self._tails) > _TAILS:
            self.cache.give_back(self._tails.popitem(last=False)[1].slot)

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
                if self._tails:
                    self.cache.give_back(self._tails.popitem(last=False)[1].slot)
                elif not self.cache.move_down(yielding([answer.kv.blocks for answer in self._answers])):
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
        self.cache.lost(lost.node)
        answer.losses[lost.node.block_id] += 1
        if answer.losses[lost.node.block_id] > _MOST_LOSSES or lost.node not in answer.kv.blocks:
            self.fail(answer, lost)
        else:
            answer.rewind(lost.node.index)

    def forget(self, namespaces: frozenset[bytes]) -> int:
        """In the engine's thread. Answers that read what must go fail: they may be asked again."""
        # Prompts that were put together before this moment may hold it as well.
        self._forgotten |= dict.fromkeys(namespaces, time.monotonic())
        for answer in [answer for answer in self._answers if answer.job.namespace in namespaces]:
            self.fail(answer, Purged(_PURGED))
        for key in [key for key in self._tails if key[0] in namespaces]:
            self.cache.give_back(self._tails.pop(key).slot)
        return self.cache.forget(namespaces)

    def fail(self, answer: Answer, error: Exception) -> None:
        logger.warning("an answer failed: %s", type(error).__name__, exc_info=error)
        if answer in self._answers:
            self._answers.remove(answer)
            answer.let_go()
        told = isinstance(error, ArenaFull | BlockLost | Purged)
        answer.job.emit(Failed(str(error) if told else "an error of the runtime; the log has it"))
