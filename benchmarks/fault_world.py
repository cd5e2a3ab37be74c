"""What is there to damage, and which answer would be right? A tiny model, its prompts, and their blocks as files.

A random Llama of two layers (the KV of the second depends on all that came before) whose block is 64 KiB. It can only
say printable ASCII, so two answers with the same text have the same tokens. Each prompt is answered once by a runtime
that knows nothing; prompts whose answer hangs by a hair are left out, so a difference is never one of rounding.
"""

import hashlib
import queue
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memory.services.secrets import keyed_hash
from model_runtime.generators.checkpoint import Checkpoint, load
from model_runtime.generators.fixture import write_fixture
from model_runtime.generators.job import Done, Failed, Job, Text
from model_runtime.generators.runtime import Runtime, RuntimeOptions
from model_runtime.generators.sampling import SamplingOptions
from model_runtime.kv import identity, stored
from model_runtime.kv.shape import BLOCK
from model_runtime.kv.stored import StoredBlock

CODECS = ("exact", "int8", "int4")
SECRET = b"the server's"


def salt(tenant: str, share_group: str, secret: bytes = SECRET) -> str:
    """As the memory makes it (`memory/bootstrap.py`)."""
    return keyed_hash(secret, ["kv", tenant, share_group]).hex()


SALT = salt("tenant", "default")
GREEDY = SamplingOptions(temperature=0, max_tokens=6)
ROOMY = 64
"""Blocks that a tier has room for where room is not the question."""
_MARGIN = 1e-2
CHAINS = 5
"""Of four prompts each."""
_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 8_192,
    "initializer_range": 0.35,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """`states`: a digest of all logits, bit for bit. `failed`: the message, where there is no answer."""

    text: str
    states: str
    cached: int
    failed: str | None = None


class Waited(Exception):
    """No answer came within a minute."""


@dataclass(frozen=True, slots=True)
class Room:
    """Blocks by tier."""

    device: int = ROOMY
    host: int = ROOMY
    disk: int = 4 * ROOMY


class World:
    """`prompts` share prefixes of up to three blocks; `cold` has the right answers, by number of prompt and codec."""

    def __init__(self, folder: Path, seed: int, chains: int = CHAINS) -> None:
        import transformers

        transformers.utils.logging.disable_progress_bar()
        self.folder = folder
        self.checkpoint = load(str(_write_model(folder / "model", seed)), cache_dir=folder)
        self.other = load(str(_write_model(folder / "other-model", seed + 1)), cache_dir=folder)
        self._logits = [_Digest(checkpoint) for checkpoint in (self.checkpoint, self.other)]
        self.opened = _record_opened()
        self.prompts, self.cold = self._draw_prompts(random.Random(f"{seed} prompts"), chains)
        self.place = Path()
        self.blocks = self._blocks(self.checkpoint)
        self.poison = self._blocks(self.other)

    @contextmanager
    def runtime(
        self, folder: Path, room: Room | None = None, checkpoint: Checkpoint | None = None
    ) -> Iterator[Runtime]:
        checkpoint, room = checkpoint or self.checkpoint, room or Room()
        unit = checkpoint.shape.block_bytes
        options = RuntimeOptions(
            checkpoint.name, folder, room.device * unit, room.host * unit, room.disk * (unit + 4_096), threads=1
        )
        runtime = Runtime(options, checkpoint)
        try:
            yield runtime
        finally:
            runtime.close()

    def ask(self, runtime: Runtime, prompt: int, codec: str, namespace: bytes | None = None) -> Answer:
        """Alone: nobody else is answered meanwhile."""
        logits = self._logits[runtime.checkpoint is self.other]
        logits.begin()
        asked = Asked(runtime, self.prompts[prompt], codec, namespace)
        return replace(asked.answer(), states=logits.end())

    def chain(self, prompt: int, codec: str) -> list[StoredBlock]:
        """The prompt's blocks as this model makes them, first to last."""
        return self.blocks[prompt, codec]

    def file(self, folder: Path, block_id: bytes) -> Path:
        """Where a runtime on `folder` keeps the block."""
        name = block_id.hex()
        return folder / self.place / name[:2] / name[2:4] / f"{name}.safetensors"

    def lay(self, folder: Path, blocks: Sequence[StoredBlock]) -> list[Path]:
        """Their files, as if an earlier runtime had written them."""
        paths = [self.file(folder, block.block_id) for block in blocks]
        for path, block in zip(paths, blocks, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(stored.to_file(block))
        return paths

    def _draw_prompts(
        self, drawn: random.Random, chains: int
    ) -> tuple[list[tuple[int, ...]], dict[tuple[int, str], Answer]]:
        prompts: list[tuple[int, ...]] = []
        cold: dict[tuple[int, str], Answer] = {}
        while len(prompts) < 4 * chains:
            trunk = [drawn.randrange(256) for _ in range(4 * BLOCK)]
            for common in drawn.sample(range(BLOCK // 2, 3 * BLOCK, BLOCK // 2), 4):
                more = drawn.randrange(BLOCK, 2 * BLOCK) if common < 2 * BLOCK else drawn.randrange(20, BLOCK)
                tokens = (*trunk[:common], *(drawn.randrange(256) for _ in range(more)))
                answers = {codec: self._answer_cold(tokens, codec) for codec in CODECS}
                if None not in answers.values():
                    cold |= {(len(prompts), codec): answer for codec, answer in answers.items() if answer}
                    prompts.append(tokens)
        return prompts, cold

    def _answer_cold(self, tokens: tuple[int, ...], codec: str) -> Answer | None:
        """By a runtime that knows nothing; None where two tokens were nearly as likely as each other."""
        logits = self._logits[0]
        logits.begin()
        with self.runtime(self.folder / "cold", Room(disk=0)) as runtime:
            answer = Asked(runtime, tokens, codec).answer()
        states = logits.end()
        return replace(answer, states=states) if logits.margin > _MARGIN and answer.text.isascii() else None

    def _blocks(self, checkpoint: Checkpoint) -> dict[tuple[int, str], list[StoredBlock]]:
        """Of every prompt, as `checkpoint` makes them, under the names that our model's have."""
        found = {}
        with (
            tempfile.TemporaryDirectory(dir=self.folder) as name,
            self.runtime(Path(name), Room(256, 256, 1_024), checkpoint) as runtime,
        ):
            assert runtime.disk is not None
            for prompt, tokens in enumerate(self.prompts):
                for codec in CODECS:
                    Asked(runtime, tokens, codec).answer()
                    settle(runtime)
                    ids = identity.chain(runtime.namespace(SALT, codec), tokens)
                    blocks = [
                        runtime.disk.get(block_id, tokens[i * BLOCK : (i + 1) * BLOCK])
                        for i, block_id in enumerate(ids)
                    ]
                    found[prompt, codec] = [block for block in blocks if block is not None]
                    assert len(found[prompt, codec]) == len(ids)
            if checkpoint is self.checkpoint:
                self.place = next((Path(name) / "blocks").iterdir()).relative_to(name)
        return found


class Asked:
    """A prompt on its way; `answer()` waits for it."""

    def __init__(self, runtime: Runtime, tokens: Sequence[int], codec: str, namespace: bytes | None = None) -> None:
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        name = namespace or runtime.namespace(SALT, codec)
        self.job = Job(tuple(tokens), GREEDY, name, codec, self._events.put)
        runtime.engine.submit(self.job)

    def answer(self) -> Answer:
        text = ""
        while True:
            try:
                event = self._events.get(timeout=60)
            except queue.Empty:
                raise Waited from None
            if isinstance(event, Text):
                text += event.text
            elif isinstance(event, Failed):
                return Answer("", "", 0, event.message)
            elif isinstance(event, Done):
                return Answer(text, "", sum(event.cached.values()))


def in_engine(runtime: Runtime, act: Any) -> Any:
    """What `act` returns when it runs between two turns."""
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    runtime.engine.errands.put(lambda: done.put(act()))
    return done.get(timeout=60)


def settle(runtime: Runtime) -> None:
    """Until what was computed lies on the host and on disk."""
    while in_engine(runtime, lambda: runtime.cache.unwritten):
        pass


def renamed(blocks: Sequence[StoredBlock], namespace: bytes) -> list[StoredBlock]:
    """The same numbers for the same tokens, in another namespace: files that are whole there."""
    found: list[StoredBlock] = []
    for block in blocks:
        parent = found[-1].block_id if found else None
        name = identity.block_id(namespace, parent, block.token_ids)
        found.append(replace(block, block_id=name, parent=parent, namespace=namespace))
    return found


class _Digest:
    """Of the logits that a model makes between `begin` and `end`, and the smallest lead of a best token."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.begin()
        checkpoint.model.lm_head.register_forward_hook(self._seen)

    def begin(self) -> None:
        self._sha = hashlib.sha256()
        self.margin = float("inf")

    def end(self) -> str:
        return self._sha.hexdigest()

    def _seen(self, module: Any, given: Any, logits: Any) -> None:
        self._sha.update(logits.numpy().tobytes())
        best = logits.topk(2, -1).values
        self.margin = min(self.margin, float((best[..., 0] - best[..., 1]).min()))


def _record_opened() -> list[Path]:
    """The block files that are opened from now on, in this process."""
    paths: list[Path] = []
    opened = stored.opened

    def recorded(path: Path) -> Any:
        paths.append(path)
        return opened(path)

    stored.opened = recorded
    return paths


def _write_model(folder: Path, seed: int) -> Path:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    tokenizer: Any = AutoTokenizer.from_pretrained(write_fixture(folder / "tokenizer"))
    model: Any = LlamaForCausalLM(LlamaConfig(**_SIZES | {"vocab_size": len(tokenizer)}))
    with torch.no_grad():
        model.lm_head.weight[:33] = 0
        model.lm_head.weight[127:] = 0
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"
