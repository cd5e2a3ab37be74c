"""On which machine, with which code, was a figure measured? Every result file carries these facts."""

import hashlib
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SEED = 0

out = Console()
"""Where every measurement prints."""

_LIBRARIES = (
    "stratamem fastapi uvicorn pydantic sqlalchemy numpy torch transformers tokenizers faiss-cpu tantivy httpx celery"
).split()
_SOURCES = ("memory", "api", "workers", "model_runtime")


def facts(seed: int = SEED) -> dict[str, Any]:
    """No name, address or path of the machine: only what a figure depends on."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": {name: found for name in _LIBRARIES if (found := _version(name))},
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", *_SOURCES)),
        "source": source_hash(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
    }


def write_result(name: str, body: dict[str, Any], seed: int = SEED) -> Path:
    """Replaces benchmarks/results/<name>.json in one step: a run that is stopped leaves the old file or the new one."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps({"machine": facts(seed), **body}, indent=2, ensure_ascii=False) + "\n", "utf-8")
    draft.replace(path)
    return path


def read_result(name: str) -> dict[str, Any]:
    """Empty when nothing was measured yet."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


@cache
def source_hash() -> str:
    """Of the service's Python files as they were first asked for: says whether two figures are of the same code."""
    digest = hashlib.sha256()
    for folder in _SOURCES:
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """None outside a checkout. Takes no lock, so that it disturbs no one's work in the same checkout."""
    command = ["git", "--no-optional-locks", *arguments]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
