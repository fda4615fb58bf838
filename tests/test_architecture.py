"""The map of the house (docs/architecture.md) holds: imports run one way, and no room outgrows a page."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_FILE, MAX_FUNCTION = 400, 60
BASE = {"errors", "compat", ""}

# What each room may import of the suite, beside itself. "" is the package with its version.
ALLOWED = {
    "errors": set(),
    "compat": set(),
    "checkpoints": BASE,
    "layers": BASE,
    "data": BASE,
    "engine": BASE | {"checkpoints", "data"},
    "pretrain": BASE | {"checkpoints", "engine", "data", "layers"},
    "transfer": BASE | {"checkpoints", "engine", "data", "layers"},
    "report": {"errors"},
    "benchmark": {"errors", "report"},
}
HEAVY = ("torch", "torchvision", "mmengine", "mmcv", "mmpretrain", "mmdet", "mmseg", "timm")
LIGHT_ROOMS = ("errors", "report", "benchmark")


def room(path):
    parts = path.relative_to(ROOT / "cmae_mm").parts
    return parts[0].removesuffix(".py") if len(parts) == 1 else parts[0]


def imports(path):
    """Every module that a file imports, anywhere in it, in full."""
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            )
            module = ".".join(filter(None, (base, node.module)))
            yield module
            if module == "cmae_mm":
                yield from (f"cmae_mm.{a.name}" for a in node.names if not a.name.startswith("__"))


FILES = sorted((ROOT / "cmae_mm").rglob("*.py"))


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_imports_run_one_way(name):
    wrong = []
    for path in FILES:
        if room(path) != name:
            continue
        for module in imports(path):
            parts = module.split(".")
            other = parts[1] if len(parts) > 1 else ""
            if parts[0] == "cmae_mm" and other != name and other not in ALLOWED[name]:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert wrong == []


def test_every_room_is_on_the_map():
    assert {room(path) for path in FILES} - set(ALLOWED) == {"__init__", "__main__", "cli"}


@pytest.mark.parametrize("name", LIGHT_ROOMS)
def test_light_rooms_name_no_heavy_library(name):
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in FILES
        if room(path) == name
        for module in imports(path)
        if module.split(".")[0] in HEAVY
    ]
    assert wrong == []


def test_tools_are_thin():
    for path in (ROOT / "tools").glob("*.py"):
        assert {m.split(".")[0] for m in imports(path)} == {"cmae_mm"}, path
        assert len(path.read_text().splitlines()) < 40, path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_fit_a_page(path):
    assert len(path.read_text().splitlines()) <= MAX_FILE
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno + 1 <= MAX_FUNCTION, node.name


def heavy_after(code):
    """Heavy libraries that a fresh interpreter has loaded after running the code."""
    tail = f"\nimport sys\nprint(sorted(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code + tail], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return ast.literal_eval(done.stdout.splitlines()[-1])


def test_help_loads_nothing_heavy():
    assert heavy_after("from cmae_mm.cli import run\ntry: run(['--help'])\nexcept SystemExit: pass") == []


def test_benchmark_and_report_load_nothing_heavy():
    modules = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts)
        for p in FILES
        if room(p) in ("benchmark", "report")
    ]
    assert heavy_after("\n".join(f"import {m.removesuffix('.__init__')}" for m in modules)) == []
