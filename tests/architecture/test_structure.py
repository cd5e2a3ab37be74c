"""The house keeps its own rules."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[2]
ROOTS = ("memory", "api", "workers", "model_runtime", "migrations")
SOURCES = sorted(path for root in ROOTS for path in (HERE / root).rglob("*.py"))
OURS = [path for path in SOURCES if "versions" not in path.parts]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_the_import_contracts_are_kept():
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command, "--no-cache"], cwd=HERE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-3_000:]


def test_the_domain_knows_only_the_standard_library():
    for path in (HERE / "memory/domain").glob("*.py"):
        for name in imports(path):
            root = name.split(".")[0]
            assert root in sys.stdlib_module_names or name.startswith("memory.domain"), f"{path.name} imports {name}"


@pytest.mark.parametrize("forbidden", ["pickle", "shelve", "marshal", "dill", "joblib", "cloudpickle"])
def test_nothing_that_runs_what_it_reads_is_imported(forbidden):
    assert [p for p in SOURCES if any(name.split(".")[0] == forbidden for name in imports(p))] == []


def test_every_module_begins_with_what_it_is_about():
    assert [str(path.relative_to(HERE)) for path in OURS if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_no_module_has_grown_beyond_four_hundred_lines():
    assert {str(p.relative_to(HERE)): n for p in OURS if (n := len(p.read_text().splitlines())) > 400} == {}


@pytest.mark.parametrize("arguments", [["--help"], ["recall", "x", "--url", "http://127.0.0.1:1"]])
def test_a_command_that_needs_no_models_and_no_database_waits_for_none(arguments):
    heavy = {"numpy", "torch", "faiss", "tantivy", "onnxruntime", "sqlalchemy", "fastapi", "celery", "structlog"}
    check = f"""
import sys
from api.cli import app
try:
    app({arguments})
except SystemExit:
    sys.exit(",".join(sorted({heavy} & set(sys.modules))) or 0)
"""
    done = subprocess.run([sys.executable, "-c", check], cwd=HERE, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_core_can_be_imported_without_torch():
    check = "import sys, memory.bootstrap, api.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=HERE, timeout=120).returncode == 0
