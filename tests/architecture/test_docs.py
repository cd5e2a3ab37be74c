"""What is written about the project is true."""

import re
from pathlib import Path

import typer
from pydantic import BaseModel

from api.cli import app
from memory.settings import Settings

HERE = Path(__file__).resolve().parents[2]
ROOTS = ("memory", "api", "workers", "model_runtime", "migrations", "benchmarks")


def settings(model=Settings, prefix="STRATAMEM_"):
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from settings(type(field.default), f"{prefix}{name.upper()}__")
        else:
            yield prefix + name.upper(), field


def test_every_module_has_its_line_in_the_architecture():
    page = (HERE / "docs/architecture.md").read_text()
    listed = re.findall(r"^\| `([\w/]+\.py)` \|", page, re.MULTILINE)
    there = {str(path.relative_to(HERE)) for root in ROOTS for path in (HERE / root).rglob("*.py")}
    there = {path for path in there if "versions/" not in path}
    assert set(listed) == there
    assert len(listed) == len(set(listed))


def test_every_setting_is_documented_with_its_default():
    page, example = (HERE / "docs/settings.md").read_text(), (HERE / ".env.example").read_text()
    for name, field in settings():
        assert field.description, f"{name} has no description"
        default = "unset" if field.default is None else f"`{getattr(field.default, 'value', field.default)}`"
        assert f"| `{name}` | {default} |" in page, f"docs/settings.md: {name}"
        assert f"#{name}=" in example, f".env.example: {name}"


def test_no_setting_is_documented_that_does_not_exist():
    known = {name for name, _ in settings()}
    documented = set(re.findall(r"^#(STRATAMEM_\w+)=", (HERE / ".env.example").read_text(), re.MULTILINE))
    assert documented == known


def commands(group, name="stratamem"):
    for path, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {path}")
        else:
            yield f"{name} {path}", command


def test_every_command_is_in_its_page_and_says_what_it_does():
    page = (HERE / "docs/cli.md").read_text()
    known = dict(commands(typer.main.get_command(app)))
    documented = {" ".join(name.split()) for name in re.findall(r"^\| `(stratamem(?: [a-z-]+)+)", page, re.MULTILINE)}
    assert documented == set(known)
    assert all(command.help for command in known.values())


def test_every_command_but_those_that_stay_prints_json():
    known = dict(commands(typer.main.get_command(app)))
    without = {name for name, command in known.items() if "--json" not in [o for p in command.params for o in p.opts]}
    assert without == {"stratamem serve", "stratamem runtime"}


def test_every_decision_is_in_the_list():
    pages = {path.name for path in (HERE / "docs/decisions").glob("0*.md")}
    listed = set(re.findall(r"\((\d{4}-[\w-]+\.md)\)", (HERE / "docs/decisions/README.md").read_text()))
    assert pages == listed


def test_links_between_pages_lead_somewhere():
    for page in [HERE / "README.md", *(HERE / "docs").rglob("*.md"), *(HERE / "benchmarks").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
