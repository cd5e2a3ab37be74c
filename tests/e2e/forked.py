"""How does a `stratamem` process start in a tenth of the time? Forked from one that has imported what it needs.

Imports are nine tenths of a start (2 s of CPU, 5 with a model). Everything after them is done by each process itself;
`Process(..., forked=False)` runs the command as a user does.
"""

import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "api.serve",
        "api.runtime",
        "workers.embedded",
        "workers.main",
        "onnxruntime",
        "model_runtime.generators.runtime",
        "transformers.models.bert.modeling_bert",
        "transformers.models.llama.modeling_llama",
        __name__,
    ]
)


class Forked:
    """As much of subprocess.Popen as the tests need."""

    def __init__(self, arguments: tuple[str, ...], env: Mapping[str, str], cwd: Path, log: Path) -> None:
        # A daemon: what a failed test left running ends with the tests.
        self._process = _CONTEXT.Process(target=_run, args=(arguments, dict(env), cwd, log), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    poll = returncode.fget

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("stratamem", timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(arguments: tuple[str, ...], env: dict[str, str], cwd: Path, log: Path) -> None:
    """In the new process: what a shell would have given it, then the command."""
    from api.cli import app

    multiprocessing.set_start_method("fork", force=True)  # as it is elsewhere: its locks leave nothing behind
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.argv = ["stratamem", *arguments]
    gc.enable()
    app()
