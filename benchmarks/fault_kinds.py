"""Which faults are there? Each draws what it does, asks, and lets the case compare; none knows how a fault is found."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest import mock

from benchmarks.fault_case import Case
from benchmarks.fault_files import (
    cut,
    damaged,
    extend,
    flip,
    other_content,
    resealed,
    spliced,
    swap_names,
    torn,
    unreadable,
)
from benchmarks.fault_tails import damaged_tail
from benchmarks.fault_world import CODECS, SALT, Asked, Room, Waited, in_engine, renamed, salt, settle
from model_runtime.generators.runtime import Runtime
from model_runtime.kv import cache, identity
from model_runtime.kv.identity import NamespaceFacts
from model_runtime.kv.shape import BLOCK


@dataclass(frozen=True, slots=True)
class Kind:
    play: Callable[[Case], None]
    weight: int


def foreign(case: Case) -> None:
    """Somebody else's blocks, of another model, for the same tokens: under their names, or renamed to those asked for.

    Their owner is asked first, and is told something else than we are: the fault was there to be met.
    """
    prompt, codec = case.prompt(), case.codec()
    with case.world.runtime(case.folder, Room(disk=0)) as runtime:
        mine, neighbours = runtime.namespace(SALT, codec), _neighbours(runtime, codec)
    name = case.draw.choice(sorted(neighbours))
    poison = renamed(case.world.poison[prompt, codec], neighbours[name])
    disguise = case.draw.random() < 0.4
    case.note(f"prompt {prompt}, {codec}: blocks of {name}", "under our names" if disguise else "")
    files = case.world.lay(case.folder, poison)
    if disguise:
        for file, block in zip(files, case.world.chain(prompt, codec), strict=True):
            target = case.world.file(case.folder, block.block_id)
            target.parent.mkdir(parents=True, exist_ok=True)
            files[files.index(file)] = file.rename(target)
    with case.runtime() as runtime:
        if not disguise:
            theirs = case.world.ask(runtime, prompt, codec, neighbours[name])
            case.met = theirs.cached > 0 and theirs.states != case.world.cold[prompt, codec].states
        answer = case.ask(runtime, prompt, codec, mine)
        case.met |= case.opened(*files)
        if answer.cached:
            case.wrong.append(f"{answer.cached} tokens were read from {name}")


def _neighbours(runtime: Runtime, codec: str) -> dict[str, bytes]:
    """Namespaces that differ from ours in one thing only."""
    facts = runtime.checkpoint.facts
    ours = NamespaceFacts(
        1, facts["weights"], facts["architecture"], runtime.checkpoint.shape.dtype, BLOCK, codec, BLOCK,
        facts["libraries"], "", SALT,
    )  # fmt: skip
    assert ours.namespace() == runtime.namespace(SALT, codec)
    other = {
        "another salt's tenant": {"salt": salt("tenan", "tdefault")},
        "another share group": {"salt": salt("tenant", "default2")},
        "another server": {"salt": salt("tenant", "default", b"another's")},
        "a forged salt: upper case": {"salt": SALT.upper()},
        "a forged salt: a blank": {"salt": SALT + " "},
        "a forged salt: cut": {"salt": SALT[:-1]},
        "no salt": {"salt": ""},
        "other weights": {"weights": facts["weights"][:-1] + "?"},
        "an adapter": {"adapter": "lora"},
        "another dtype": {"kv_dtype": "bfloat16"},
        "another policy": {"policy": f"sparse {codec}"},
        "another grid": {"chunk_grid": 2 * BLOCK},
        "another format": {"format_version": 0},
        "another library": {"libraries": dict(facts["libraries"]) | {"torch": "1.0"}},
        "another window": {"architecture": dict(facts["architecture"]) | {"sliding_window": 4_096}},
    }
    return {name: replace(ours, **fields).namespace() for name, fields in other.items()}  # type: ignore[arg-type]


def other_model(case: Case) -> None:
    """A runtime with other weights, dtype, tokenizer or libraries on our folder, then ours again on what it left."""
    prompt, codec = case.prompt(), case.codec()
    facts = case.world.checkpoint.facts
    changed: dict[str, dict[str, Any]] = {
        "weights": case.world.other.facts,
        "tokenizer": facts | {"tokenizer": "another"},
        "libraries": facts | {"libraries": dict(facts["libraries"]) | {"transformers": "4.0"}},
        "architecture": facts | {"architecture": dict(facts["architecture"]) | {"rope_theta": 7.0}},
    }
    name = case.draw.choice(sorted(changed))
    case.note(f"prompt {prompt}, {codec}: another {name} on the same folder")
    files = case.world.lay(case.folder, case.world.chain(prompt, codec))
    # Other weights under each of these names: what they write must never be read by us, nor ours by them.
    stranger = replace(case.world.other, facts=changed[name])
    with case.runtime(checkpoint=stranger) as runtime:
        theirs = case.world.ask(runtime, prompt, codec)
        if theirs.cached:
            case.wrong.append(f"{theirs.cached} tokens of ours were read with another {name}")
        settle(runtime)
        case.met = not files[0].exists()
    with case.runtime() as runtime:
        case.ask(runtime, prompt, codec)


def prefixes(case: Case) -> None:
    """Prompts with common first blocks, in any order, again and again, where the tiers have room for few blocks."""
    room = Room(case.draw.randint(5, 9), case.draw.randint(0, 8), case.draw.randint(0, 8))
    chain = case.draw.randrange(len(case.world.prompts) // 4)
    codec = case.codec()
    case.note(f"prompts of chain {chain}, {codec}, {room}")
    with case.runtime(room) as runtime:
        for _ in range(4):
            answer = case.ask(runtime, 4 * chain + case.draw.randrange(4), codec)
            case.met |= 0 < answer.cached < 4 * BLOCK


def collisions(case: Case) -> None:
    """Names of few bits, so that blocks of different tokens get the same one: the tokens themselves must decide."""
    bits = case.draw.randint(1, 6)
    real, seen = identity.block_id, dict[bytes, set[bytes]]()

    def short(namespace: bytes, parent: bytes | None, token_ids: Sequence[int]) -> bytes:
        name = real(namespace, parent, token_ids)
        few = bytes([1, name[0] >> (8 - bits)]) * 16
        seen.setdefault(few, set()).add(name)
        return few

    prompts = [case.prompt() for _ in range(3)]
    codec = case.codec()
    case.note(f"prompts {prompts}, {codec}, names of {bits} bits")
    with mock.patch.object(identity, "block_id", short), mock.patch.object(cache, "block_id", short):
        for part in (prompts, prompts[::-1]):
            with case.runtime(Room(case.draw.randint(8, 24), 8, 16)) as runtime:
                for prompt in part:
                    case.ask(runtime, prompt, codec)
    case.met = any(len(names) > 1 for names in seen.values())


def race(case: Case) -> None:
    """Many at once in tiers that are too small for them, while blocks leave, are purged, and answers are given up."""
    room = Room(case.draw.randint(12, 24), case.draw.randint(0, 8), case.draw.randint(0, 12))
    many = [(case.prompt(), case.codec()) for _ in range(case.draw.randint(6, 12))]
    case.note(f"{many}, {room}")
    case.world.lay(case.folder, [block for key in many[::2] for block in case.world.chain(*key)])
    with case.runtime(room) as runtime:
        namespaces = {codec: runtime.namespace(SALT, codec) for codec in CODECS}
        asked = []
        for prompt, codec in many:
            asked.append(Asked(runtime, case.world.prompts[prompt], codec))
            if (what := case.draw.random()) < 0.2:
                runtime.engine.errands.put(partial(_leave_device, runtime))
            elif what < 0.3:
                runtime.forget(frozenset({namespaces[codec]}))
            elif what < 0.4:
                case.draw.choice(asked).job.cancelled.set()
            elif what < 0.6:
                time.sleep(case.draw.random() / 50)
        for (prompt, codec), one in zip(many, asked, strict=True):
            try:
                answer = one.answer()
            except Waited:
                case.wrong.append("no answer and no error within a minute")
                return
            if one.job.cancelled.is_set():
                answer = replace(answer, failed=answer.failed or "given up by who asked")
            case.judge(answer, prompt, codec)
            case.met |= answer.cached > 0
        in_use = in_engine(runtime, lambda: {node.refs for node in runtime.cache._nodes.values()})
        if in_use - {0}:
            case.wrong.append(f"blocks that nobody reads any more are held: {in_use}")


def _leave_device(runtime: Runtime) -> None:
    runtime.cache.leave_device()


def disk_fails(case: Case) -> None:
    """Reads that are late, short or fail, a disk that is full or can't flush: for a while, then it is well again."""
    prompt, codec = case.prompt(), case.codec()
    case.world.lay(case.folder, case.world.chain(prompt, codec))
    name, act = case.draw.choice(sorted(_FAILURES.items()))
    share = case.draw.choice((1.0, 0.3))
    case.note(f"prompt {prompt}, {codec}: {name} in {share:.0%} of the calls")
    met = []

    def sometimes(*arguments: Any) -> Any:
        if case.draw.random() < share:
            met.append(name)
            return act(real, *arguments)
        return real(*arguments)

    call = name.split(":")[0]
    real = getattr(os, call)
    with case.runtime() as runtime:
        assert runtime.disk is not None
        runtime.disk._deadline = 0.02
        with mock.patch.object(os, call, sometimes):
            if call != "pread":  # something to write
                prompt = (prompt + 1) % len(case.world.prompts)
            case.ask(runtime, prompt, codec)
            settle(runtime)
        case.met = bool(met)
        in_engine(runtime, runtime.cache.leave_device)
        case.ask(runtime, prompt, codec)
    with case.runtime() as runtime:
        case.ask(runtime, prompt, codec)


def _late(real: Callable[..., bytes], *arguments: Any) -> bytes:
    time.sleep(0.04)
    return real(*arguments)


def _short(real: Callable[..., bytes], *arguments: Any) -> bytes:
    return real(*arguments)[: max(1, arguments[1] // 3)]


def _fails(number: int) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


def _half_written(real: Callable[[int, Any], int], file: int, content: Any) -> int:
    real(file, content[: len(content) // 2])
    raise OSError(errno.ENOSPC, "no space left")


_FAILURES: dict[str, Callable[..., Any]] = {
    "pread: late": _late,
    "pread: short": _short,
    "pread: EIO": _fails(errno.EIO),
    "pread: nothing": lambda *_: b"",
    "open: EMFILE": _fails(errno.EMFILE),
    "write: full in the middle": _half_written,
    "write: a part": lambda real, file, content: real(file, content[: len(content) // 2 + 1]),
    "fsync: EIO": _fails(errno.EIO),
}


def quotas(case: Case) -> None:
    """Several prompts through runtimes on the same folder whose tiers have other sizes each time."""
    for _ in range(2):
        room = Room(case.draw.randint(5, 16), case.draw.randint(0, 12), case.draw.randint(0, 16))
        case.note(room)
        with case.runtime(room) as runtime:
            for prompt, codec in [(case.prompt(), case.codec()) for _ in range(2)] * 2:
                case.met |= case.ask(runtime, prompt, codec).cached > 0
            settle(runtime)


def leftovers(case: Case) -> None:
    """A folder with parts of other folders in it: foreign names, other depths, folders of another model."""
    prompt, codec = case.prompt(), case.codec()
    files = case.world.lay(case.folder, case.world.chain(prompt, codec))
    home = case.folder / case.world.place
    stranger = home / "zz" / "zz" / ("z" * 64 + ".safetensors")
    stranger.parent.mkdir(parents=True)
    shutil.copy(files[0], stranger)
    wrong_place = home / "00" / "00" / files[0].name
    wrong_place.parent.mkdir(parents=True, exist_ok=True)
    files[0].rename(wrong_place)
    shutil.copytree(home, home.with_name("another-model"))
    case.note(f"prompt {prompt}, {codec}: names and places that are not ours")
    with case.runtime() as runtime:
        case.ask(runtime, prompt, codec)
        case.met = case.opened(*files[1:])


KINDS: dict[str, Kind] = {
    **{f"bits of the {part}": Kind(damaged(flip(part)), 5) for part in ("header", "metadata", "tokens", "layers")},
    "bits anywhere": Kind(damaged(flip("anywhere")), 8),
    "cut": Kind(damaged(cut), 8),
    "longer": Kind(damaged(extend), 5),
    "torn pages": Kind(damaged(torn), 6),
    "swapped names": Kind(damaged(swap_names), 6),
    "another file's content": Kind(damaged(other_content), 8),
    "spliced files": Kind(damaged(spliced), 5),
    "another codec or shape": Kind(damaged(resealed), 6),
    "unreadable": Kind(damaged(unreadable), 4),
    "another namespace": Kind(foreign, 10),
    "another model": Kind(other_model, 5),
    "common prefixes": Kind(prefixes, 4),
    "colliding names": Kind(collisions, 5),
    "races": Kind(race, 5),
    "failing disk": Kind(disk_fails, 5),
    "tails": Kind(damaged_tail, 6),
    "other quotas": Kind(quotas, 2),
    "leftovers": Kind(leftovers, 2),
}
