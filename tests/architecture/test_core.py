"""The core of the memory runs on the standard library, numpy and pydantic."""

import ast
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[2]
ALLOWED = {"numpy", "pydantic", "memory"}


def imported(path):
    """The first part of the name of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("layer", ["domain", "ports", "tiers", "recall", "services"])
def test_a_layer_of_the_core_needs_no_other_package(layer):
    files = sorted((HERE / "memory" / layer).rglob("*.py"))
    assert files
    others = {
        str(path.relative_to(HERE)): found
        for path in files
        if (found := {name for name in imported(path) if name not in ALLOWED | sys.stdlib_module_names})
    }
    assert others == {}


def test_sql_is_written_in_its_adapter_only():
    users = {
        path.relative_to(HERE).parent for path in (HERE / "memory").rglob("*.py") if "sqlalchemy" in imported(path)
    }
    assert users == {Path("memory/adapters/sql")}
