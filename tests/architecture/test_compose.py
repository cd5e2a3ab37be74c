"""The compose file starts what exists. (`docker compose config` checks the rest where there is an engine.)"""

import re
from pathlib import Path

import yaml
from typer.testing import CliRunner

from api.cli import app
from memory.settings import Settings

HERE = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((HERE / "compose.yaml").read_text())


def test_all_the_parts_are_there_and_each_says_when_it_is_well():
    services = COMPOSE["services"]
    assert set(services) == {"api", "worker", "postgres", "redis", "runtime", "runtime-gpu"}
    assert all("healthcheck" in service for service in services.values())
    for name in ("api", "worker"):
        assert {d["condition"] for d in services[name]["depends_on"].values()} == {"service_healthy"}


def test_the_commands_exist():
    for name in ("api", "worker", "runtime"):
        assert CliRunner().invoke(app, [*COMPOSE["services"][name]["command"], "--help"]).exit_code == 0
    assert CliRunner().invoke(app, ["worker", "--ping", "--help"]).exit_code == 0


def test_every_variable_is_a_setting():
    for name in ("api", "worker", "runtime", "runtime-gpu"):
        for variable in COMPOSE["services"][name]["environment"]:
            assert variable.removeprefix("STRATAMEM_").lower() in Settings.model_fields


def test_the_runtime_starts_only_where_it_is_asked_for_and_goes_by_one_name():
    services = COMPOSE["services"]
    for name, profile in (("runtime", "runtime"), ("runtime-gpu", "gpu")):
        assert services[name]["profiles"] == [profile]
        assert services[name]["networks"]["default"]["aliases"] == ["runtime"]
    assert "runtime" not in services["api"]["depends_on"]


def test_what_is_not_set_is_passed_on_as_an_empty_text_and_means_unset(monkeypatch):
    for name in ("RUNTIME_URL", "RUNTIME_KEY", "MODEL"):
        monkeypatch.setenv(f"STRATAMEM_{name}", "")
    settings = Settings(_env_file=None)
    assert (settings.runtime_url, settings.runtime_key, settings.model) == (None, None, None)


def test_the_image_copies_every_package():
    dockerfile = (HERE / "Dockerfile").read_text()
    copied = set(re.findall(r"^COPY (\w+) \./\w+$", dockerfile, re.MULTILINE))
    assert copied == {"memory", "api", "workers", "model_runtime", "migrations"}


def test_the_image_has_the_version_of_the_project():
    version = re.search(r'^version = "(.+)"', (HERE / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert COMPOSE["services"]["api"]["image"] == f"stratamem:{version.group(1)}"
