"""How can the file of a tail, a block that is not full, be damaged, and what is asked then?"""

from pathlib import Path

from benchmarks.fault_case import Case


def damaged_tail(case: Case) -> None:
    """Two conversations leave their tails to the next process; one of the files is damaged meanwhile."""
    prompt, codec = case.prompt(), case.codec()
    other = (prompt + 1) % len(case.world.prompts)
    with case.runtime() as runtime:
        case.ask(runtime, prompt, codec)
        case.ask(runtime, other, codec)
    files = sorted(case.folder.rglob("*.tail"))
    target = case.draw.choice(files)
    target.write_bytes(_damaged(case, target, files))
    with case.runtime() as runtime:
        case.ask(runtime, prompt, codec)
        case.ask(runtime, other, codec)
        case.met = not target.exists()  # what is no tail is dropped when it is read


def _damaged(case: Case, target: Path, files: list[Path]) -> bytes:
    content = target.read_bytes()
    others = [file for file in files if file != target]
    how = case.draw.choice(["bit", "cut", "longer", *(["swapped"] if others else [])])
    case.note(f"{target.name[:8]}: {how}")
    at = case.draw.randrange(len(content))
    match how:
        case "bit":
            return content[:at] + bytes([content[at] ^ (1 << case.draw.randrange(8))]) + content[at + 1 :]
        case "cut":
            return content[:at]
        case "longer":
            return content + case.draw.randbytes(1 + at % 64)
        case _:
            return case.draw.choice(others).read_bytes()
