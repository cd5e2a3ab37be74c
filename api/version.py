"""Which version is this? The installed distribution's, or the checkout's `pyproject.toml` where none is installed."""

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def _version() -> str:
    try:
        return version("stratamem")
    except PackageNotFoundError:
        described = Path(__file__).parents[1] / "pyproject.toml"
        return str(tomllib.loads(described.read_text())["project"]["version"])


VERSION = _version()
