"""How does a CPU embed twice as fast? In bytes, where it multiplies them: ONNX Runtime, dynamic int8.

The graph is made from the model's own weights the first time, in a process of its own (`int8_export.py`), so that
this one never imports torch, and is kept in a folder under a name that says what it was made of. One text a run: the
range of activations is found per run, so a batch would make a text's vector depend on its company.
"""

import hashlib
import logging
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_runtime.embedders.folder import ModelFolder, UnusableModel

logger = logging.getLogger(__name__)

_RECIPE = 1
"""Counted up when `int8_export.py` makes something else of the same weights."""

_GRAPH, _CHECKSUM = "model.onnx", "sha256"
_EXPORT_TIMEOUT = 300.0
_BYTE_PRODUCTS = {"avx512_vnni", "avx_vnni", "avx512vnni"}


def pays() -> bool:
    """The CPU has byte products and there is no GPU. Measured on x86 only: other machines stay with float32."""
    if platform.machine() not in ("x86_64", "AMD64") or Path("/dev/nvidiactl").exists():
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:  # not Linux
        return False
    return not _BYTE_PRODUCTS.isdisjoint(flags.partition("\nflags")[2].partition("\n")[0].split())


class Int8Forward:
    """Each text by itself, on the calling thread. Any number of threads may call it at once."""

    device = "cpu"

    def __init__(self, folder: ModelFolder, pooling: str, exports: Path) -> None:
        """Makes the export where it is missing or damaged. Raises UnusableModel, OSError."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        graph = exported(folder, pooling, exports)
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def __call__(self, ids: list[list[int]]) -> NDArray[np.float32]:
        """float32 [n, d], of any length."""
        rows = [self._session.run(None, {"input_ids": np.array([row], np.int64)})[0][0] for row in ids]
        return np.stack(rows).astype(np.float32, copy=False)

    def prepare_thread(self) -> None:
        """A run uses the thread that calls it and no other."""


def exported(folder: ModelFolder, pooling: str, exports: Path) -> bytes:
    """The graph from `exports`, made first where it isn't there whole. Raises UnusableModel, OSError."""
    kept = exports / f"{folder.name.replace('/', '--')}-{folder.weights_fingerprint()}-{pooling}-int8-{_RECIPE}"
    graph = _read(kept)
    if graph is None:
        logger.info("making %s ready for this CPU: once, some ten seconds", folder.name)
        _make(folder, pooling, kept)
        graph = _read(kept)
    if graph is None:
        raise UnusableModel(f"{kept} is damaged right after it was written: look at that disk")
    return graph


def _read(kept: Path) -> bytes | None:
    """None where it is missing, unfinished or not what was written."""
    try:
        graph = (kept / _GRAPH).read_bytes()
        checksum = (kept / _CHECKSUM).read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return graph if hashlib.sha256(graph).hexdigest() == checksum else None


def _make(folder: ModelFolder, pooling: str, kept: Path) -> None:
    """Several processes may do this at once: each works in a folder of its own, the first to finish stays."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{kept.name}-", dir=kept.parent) as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        _export(folder, pooling, made / _GRAPH)
        (made / _CHECKSUM).write_text(hashlib.sha256((made / _GRAPH).read_bytes()).hexdigest(), encoding="ascii")
        if _read(kept) is None:
            shutil.rmtree(kept, ignore_errors=True)  # what is left in the way fails the rename
            made.rename(kept)


def _export(folder: ModelFolder, pooling: str, target: Path) -> None:
    command = [sys.executable, "-m", "model_runtime.embedders.int8_export", str(folder.path), pooling, str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_EXPORT_TIMEOUT, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as e:
        raise UnusableModel(f"{folder.path} was not made ready for int8 within {_EXPORT_TIMEOUT:.0f} s") from e
    if done.returncode or not target.is_file():
        reason = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
        raise UnusableModel(
            f"{folder.path} could not be made ready for int8 ({reason});"
            " STRATAMEM_EMBEDDER_PRECISION=float32 does without"
        )
