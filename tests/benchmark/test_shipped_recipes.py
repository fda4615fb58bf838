"""Every shipped recipe can be run: its configs exist, its options are fields, its plan is a plan."""

import re

import pytest

from cmae_mm.benchmark.plan import Plan
from cmae_mm.benchmark.reading import RECIPES, library, load_recipe
from cmae_mm.benchmark.recipe import ROOT
from cmae_mm.benchmark.transfer import transfer_recipe

PATHS = sorted(RECIPES.glob("*.toml"))
ABLATIONS = {"cmae": "cmae_ablation_*.toml", "mv_mae": "mv_mae_ablation_*.toml"}


@pytest.fixture(scope="module")
def recipes():
    return {path.stem: load_recipe(path) for path in PATHS}


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_a_recipe_loads_and_its_plan_is_whole(path, tmp_path):
    recipe = load_recipe(path)
    stages = Plan(recipe, tmp_path, (0, 1)).stages
    known = set()
    for stage in stages:
        assert set(stage.needs) <= known
        assert stage.name not in known
        known.add(stage.name)
        assert stage.seconds > 0
        assert stage.cost.basis or not stage.cost.gpu_hours
    assert {s.record["backbone_name"] for s in stages if s.kind == "transfer"} == {
        b.name for b in recipe.backbones
    }
    assert {s.record["task_name"] for s in stages if s.kind == "transfer"} == {t.name for t in recipe.tasks}
    for backbone in recipe.backbones:  # one number in a cell of the table
        cells = [(t.protocol, t.title) for b, t in recipe.pairs() if b == backbone]
        assert len(set(cells)) == len(cells), (backbone.name, cells)


def test_a_name_means_the_same_in_every_recipe(recipes):
    """Tables can share a folder of outputs, and with it pretrainings."""
    seen = {}
    for recipe in recipes.values():
        for backbone in recipe.backbones:
            facts = (backbone.config, backbone.options, backbone.source, backbone.import_options)
            assert seen.setdefault(backbone.name, facts) == facts
        for task in recipe.tasks:
            facts = (task.config, task.options, task.program, task.arguments, task.protocol)
            assert seen.setdefault(task.name, facts) == facts


def test_the_whole_library_is_sound(recipes):
    backbones, tasks = library()
    for table in (*backbones.values(), *tasks.values()):
        assert not table.get("config") or (ROOT / table["config"]).is_file(), table
    used = {t.name for recipe in recipes.values() for t in recipe.tasks}
    used |= {b.name for recipe in recipes.values() for b in recipe.backbones}
    assert {f"cmae-vit-{s}-1600e" for s in "sblh"} <= used


@pytest.mark.parametrize(("folder", "pattern"), ABLATIONS.items())
def test_every_ablation_has_its_table(folder, pattern, recipes):
    configs = {
        str(p.relative_to(ROOT)) for p in (ROOT / "configs" / "pretrain" / folder / "ablations").glob("*.py")
    }
    found = {b.config for p in RECIPES.glob(pattern) for b in recipes[p.stem].backbones if b.variant}
    assert found == configs


def test_options_are_fields_of_their_configs(recipes):
    from cmae_mm.engine.config import load_config
    from cmae_mm.engine.options import apply_options, parse_options

    wanted: dict[str, set[tuple[str, ...]]] = {}
    for recipe in recipes.values():
        for part in (*recipe.backbones, *recipe.tasks):
            if part.options:
                wanted.setdefault(part.config, set()).add(part.options)
    assert wanted
    for config, sets in wanted.items():
        cfg = load_config(ROOT / config)
        for options in sets:
            parsed = parse_options(options)
            apply_options(cfg, parsed)
            for key, value in parsed.items():
                node = cfg
                for part in key.split("."):
                    node = node[part]
                assert node == value


def test_presets_name_tasks_that_exist(tmp_path):
    weights = tmp_path / "w.pth"
    weights.touch()
    text = (RECIPES / "library" / "presets.toml").read_text()
    sections = re.findall(r'^\[preset\.(\w+)\."([^"]+)"\]\n((?:\w+ = "[^"]+"\n)+)', text, flags=re.M)
    assert {preset for preset, _, _ in sections} == {"full", "short", "mini"}
    for preset, arch, lines in sections:
        words = re.findall(r"^(\w+) =", lines, flags=re.M)
        recipe = transfer_recipe(str(weights), words, preset, "", arch)
        assert [t.takes(recipe.backbones[0]) for t in recipe.tasks] == [True] * len(words)
