"""How can the file of a block be damaged, and what is asked then?

Before the start or while the runtime is running. Not among the damages: a file whose seal and checksums were computed
again over other numbers of the same shape. Who may write to the folder and knows the format is believed; its files are
0600.
"""

import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.fault_case import Case
from benchmarks.fault_world import CODECS, ROOMY, Room, in_engine
from model_runtime.kv import stored
from model_runtime.kv.shape import BLOCK
from model_runtime.kv.stored import StoredBlock

Damage = Callable[[Case, list[Path]], list[Path]]
"""Damages some of the files of a chain; which."""


def damaged(damage: Damage) -> Callable[[Case], None]:
    """Files of an earlier runtime, one of them damaged: asked at once, again from the host, again after a restart."""

    def play(case: Case) -> None:
        prompt, codec = case.prompt(), case.codec()
        files = case.world.lay(case.folder, case.world.chain(prompt, codec))
        running = case.draw.random() < 0.5
        room = Room(*case.draw.choice(((3, 0), (3, ROOMY), (ROOMY, ROOMY), (ROOMY, ROOMY))))  # 3: blocks are streamed
        case.note(f"prompt {prompt}, {codec}, damaged", "while running" if running else "before the start", room)
        bad = [] if running else damage(case, files)
        with case.runtime(room) as runtime:
            bad = bad or damage(case, files)
            case.ask(runtime, prompt, codec)
            case.met = case.opened(*bad)
            if case.draw.random() < 0.3:
                in_engine(runtime, runtime.cache.leave_device)
                case.ask(runtime, prompt, codec)
        if case.draw.random() < 0.3:
            with case.runtime() as runtime:
                case.ask(runtime, prompt, codec)

    return play


def flip(part: str) -> Damage:
    """One to four bits."""

    def damage(case: Case, files: list[Path]) -> list[Path]:
        file = case.draw.choice(files)
        content = bytearray(file.read_bytes())
        first, last = _part(content, part)
        for _ in range(case.draw.randint(1, 4)):
            at, bit = case.draw.randrange(first, last), case.draw.randrange(8)
            content[at] ^= 1 << bit
            case.note(f"{file.name[:8]}: bit {bit} of byte {at} of {len(content)}")
        file.write_bytes(content)
        return [file]

    return damage


def _part(content: bytes | bytearray, part: str) -> tuple[int, int]:
    """First byte and the one after the last."""
    (length,) = struct.unpack_from("<Q", content)
    tokens, layers = 8 + length, 8 + length + 4 * BLOCK
    begun = bytes(content).index(b'"__metadata__"')
    return {
        "header": (0, tokens),
        "metadata": (begun, bytes(content).index(b"}", begun)),
        "tokens": (tokens, layers),
        "layers": (layers, len(content)),
        "anywhere": (0, len(content)),
    }[part]


def cut(case: Case, files: list[Path]) -> list[Path]:
    file = case.draw.choice(files)
    size = case.draw.choice((0, 7, 8, case.draw.randrange(file.stat().st_size), file.stat().st_size - 1))
    case.note(f"{file.name[:8]} cut to {size} bytes")
    os.truncate(file, size)
    return [file]


def extend(case: Case, files: list[Path]) -> list[Path]:
    file = case.draw.choice(files)
    more = case.draw.choice((b"\0", case.draw.randbytes(case.draw.randint(1, 5_000)), file.read_bytes()))
    case.note(f"{file.name[:8]} with {len(more)} bytes more")
    file.write_bytes(file.read_bytes() + more)
    return [file]


def torn(case: Case, files: list[Path]) -> list[Path]:
    """Pages that never reached the disk: zeros, or what lay there before."""
    file = case.draw.choice(files)
    content = bytearray(file.read_bytes())
    first = case.draw.randrange(len(content)) // 4_096 * 4_096
    last = min(len(content), first + 4_096 * case.draw.randint(1, 4))
    old = stored.to_file(case.world.poison[_whose(case, file)][0])[first:last] if case.draw.random() < 0.5 else b""
    content[first:last] = old.ljust(last - first, b"\0")
    case.note(f"{file.name[:8]}: bytes {first} to {last} are", "of another file" if old else "zeros")
    file.write_bytes(content)
    return [file]


def _whose(case: Case, file: Path) -> tuple[int, str]:
    name = file.name[:64]
    return next(key for key, chain in case.world.blocks.items() if name in {b.block_id.hex() for b in chain})


def swap_names(case: Case, files: list[Path]) -> list[Path]:
    """Two files of a chain, or one of another prompt, changed places."""
    more = case.world.lay(case.folder, case.world.chain(case.prompt(), case.codec()))
    one = case.draw.choice(files)
    other = case.draw.choice([file for file in files + more if file != one])
    case.note(f"{one.name[:8]} and {other.name[:8]} changed places")
    beside = one.with_suffix(".beside")
    one.rename(beside)
    other.rename(one)
    beside.rename(other)
    return [one]


def other_content(case: Case, files: list[Path]) -> list[Path]:
    """A whole file of another prompt, place, codec or model under this name."""
    file = case.draw.choice(files)
    prompt, codec = _whose(case, file)
    place = files.index(file)
    chain = case.world.chain(prompt, codec)  # of the first prompt that has the block: as long as the case's, or not
    choices = {
        "another prompt": case.world.chain((prompt + 1) % len(case.world.prompts), codec)[0],
        "another place": chain[(place + 1) % len(chain)],
        "another codec": case.world.chain(prompt, case.draw.choice([c for c in CODECS if c != codec]))[place],
        "another model and another prompt": case.world.poison[(prompt + 1) % len(case.world.prompts), codec][0],
    }
    name = case.draw.choice(sorted(choices))
    case.note(f"{file.name[:8]} has the content of {name}")
    file.write_bytes(stored.to_file(choices[name]))
    return [file]


def spliced(case: Case, files: list[Path]) -> list[Path]:
    """The header of one file before the tokens and layers of another, or the layers of another model behind it."""
    file = case.draw.choice(files)
    prompt, codec = _whose(case, file)
    own, foreign = file.read_bytes(), stored.to_file(case.world.poison[prompt, codec][files.index(file)])
    part = case.draw.choice(("tokens", "layers"))
    at = _part(own, part)[0]
    case.note(f"{file.name[:8]}: from its {part} on it is another model's")
    file.write_bytes(own[:at] + foreign[_part(foreign, part)[0] :])
    return [file]


def resealed(case: Case, files: list[Path]) -> list[Path]:
    """A whole and sealed file that says it is of another codec, or has other layers than the model."""
    file = case.draw.choice(files)
    prompt, codec = _whose(case, file)
    block = case.world.chain(prompt, codec)[files.index(file)]
    other = case.draw.choice([c for c in CODECS if c != codec])
    poison = case.world.poison[prompt, other][files.index(file)]
    choices: dict[str, StoredBlock] = {
        "another codec, and its layers": replace(block, codec=other, layers=poison.layers),
        "another codec": replace(block, codec=other),
        "the layers of another codec": replace(block, layers=poison.layers),
        "a layer less": replace(block, layers=block.layers[:-1]),
        "a layer more": replace(block, layers=(*block.layers, block.layers[0])),
        "a short layer": replace(block, layers=(block.layers[0][:-4], *block.layers[1:])),
        "no codec we know": replace(block, codec="fp3"),
        "another place": replace(block, index=block.index and block.index + 1),
    }
    if codec != "exact" and other != "exact":  # with two layers int4 keeps both as int8 does: the same bytes
        del choices["the layers of another codec"], choices["another codec"]
    name = case.draw.choice(sorted(choices))
    case.note(f"{file.name[:8]} sealed with {name}")
    file.write_bytes(stored.to_file(choices[name]))
    return [file]


def unreadable(case: Case, files: list[Path]) -> list[Path]:
    """Gone, a folder, a link to a whole file, or the unfinished file of a crash beside a missing one."""
    file, content = (chosen := case.draw.choice(files)), chosen.read_bytes()
    what = case.draw.choice(("gone", "a folder", "a link", "unfinished"))
    case.note(f"{file.name[:8]} is {what}")
    file.unlink()
    if what == "a folder":
        file.mkdir()
    elif what == "a link":
        target = file.with_name("elsewhere")
        target.write_bytes(content)
        file.symlink_to(target)
    elif what == "unfinished":
        file.with_name(file.name + ".tmp").write_bytes(content[: case.draw.randrange(len(content))])
    return files
