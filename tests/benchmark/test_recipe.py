"""A recipe's mistakes are named before anything runs; the stage graph is the experiment that was meant."""

import itertools
import re

import pytest

from cmae_mm.benchmark.recipe import ROOT, load_recipe
from cmae_mm.benchmark.stages import INITS, backbone_path, plan
from cmae_mm.errors import UserError

MINI = ROOT / "configs" / "benchmark" / "mini.toml"


@pytest.fixture(scope="module")
def recipe():
    return load_recipe(MINI)


def edited(tmp_path, pattern, replacement):
    text, hits = re.subn(pattern, replacement, MINI.read_text(), count=1, flags=re.M)
    assert hits == 1
    (tmp_path / "recipe.toml").write_text(text)
    return tmp_path / "recipe.toml"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "benchmark").glob("*.toml")), ids=lambda p: p.name
)
def test_shipped_recipes_load(path):
    assert load_recipe(path).tasks


@pytest.mark.parametrize(
    ("pattern", "replacement", "what"),
    [
        (r"^name = .*", "name = [", "not valid TOML"),
        (r"^title = .*", "", r"missing or unknown \('title'\)"),
        (r"^seeds = .*", "seeds = []", "seeds must be"),
        (r"^seeds = .*", 'seeds = ["a"]', "seeds must be"),
        (r"^seeds = .*", "seeds = 3", "seeds must be"),
        (r"^\[data\]", 'data = "mini"\n[other]', "missing or unknown"),
        (r"^command = .*", "", r"\[data\] needs command or root"),
        (r"^method = .*", 'method = "X"\nspeed = 3', "speed"),
        (r"^method = .*", "", "method"),
        (r"^protocol = .*", "", "protocol"),
        (
            r"^config = .*pretrain.*",
            'config = "configs/none.py"',
            "names the config configs/none.py, which does not exist",
        ),
        (
            r"^pictures = .*",
            'pictures = "movies"',
            "no picture tool 'movies'; use detections or segmentation",
        ),
        (r'^name = "coco"', 'name = "ade20k"', "two tasks are named 'ade20k'"),
        (r"^metrics = .*", 'metrics = "top1"', "metrics of imagenet-linear"),
    ],
)
def test_mistakes_are_named(tmp_path, pattern, replacement, what):
    path = edited(tmp_path, pattern, replacement)
    with pytest.raises(UserError, match=what) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_unreadable_recipes_are_named(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(UserError, match="no such benchmark recipe; recipes are under configs/benchmark"):
            load_recipe(path)
    (tmp_path / "bytes.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(UserError, match="not valid TOML"):
        load_recipe(tmp_path / "bytes.toml")


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 7)])
def test_the_graph_is_whole_and_in_order(recipe, tmp_path, seeds):
    stages = plan(recipe, tmp_path, seeds)
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    known = set()
    for stage in stages:
        assert set(stage.needs) <= known  # so it is topological too
        known.add(stage.name)
    # data; pretrain, export, views and two sides a task for each seed; pictures of the first seed
    pictures = sum(bool(task.pictures) for task in recipe.tasks)
    assert len(stages) == 1 + len(seeds) * (3 + 2 * len(recipe.tasks)) + pictures


def test_outputs_are_never_shared(recipe, tmp_path):
    made = [path for stage in plan(recipe, tmp_path, (0, 1)) for path in stage.makes]
    assert len(set(made)) == len(made)
    assert all(path.is_relative_to(tmp_path) for path in made)


def without(words, *flags):
    """The command without some flags and their values."""
    words, kept = list(words), []
    while words:
        word = words.pop(0)
        if word in flags:
            words.pop(0)
        else:
            kept.append(word)
    return kept


def test_both_sides_get_the_same_recipe(recipe, tmp_path):
    """Fairness: the two initialisations differ in --backbone (and where they write), in nothing else."""
    stages = {stage.name: stage for stage in plan(recipe, tmp_path, (0, 5))}
    for seed, task in itertools.product((0, 5), recipe.tasks):
        random, pretrained = (stages[f"seed{seed}-{task.name}-{init}"] for init in INITS)
        assert "--backbone" not in random.argv
        words = list(pretrained.argv)
        assert words[words.index("--backbone") + 1] == str(backbone_path(tmp_path, recipe, seed))
        assert without(random.argv, "--work-dir") == without(words, "--work-dir", "--backbone")
        assert words[words.index("--seed") + 1] == str(seed)
        assert pretrained.inputs == (backbone_path(tmp_path, recipe, seed),)


def test_no_stage_looks_past_what_it_was_made_from(recipe, tmp_path):
    """A file that one stage makes and another reads is hashed by the reader, so new content runs it again."""
    stages = plan(recipe, tmp_path, (0, 1))
    made = {str(path): stage.name for stage in stages for path in stage.makes}
    for stage in stages:
        read = [word for word in stage.argv if word in made and made[word] != stage.name]
        assert {made[word] for word in read} <= set(stage.needs)
        assert {str(path) for path in stage.inputs} >= set(read)


def test_existing_data_needs_no_stage(tmp_path):
    path = edited(tmp_path, r"^command = .*", 'root = "/data/sets"')
    stages = plan(load_recipe(path), tmp_path, (0,))
    assert "data" not in {stage.name for stage in stages} | {n for stage in stages for n in stage.needs}
    words = list(stages[0].argv)
    assert words[words.index("--data-root") + 1] == "/data/sets/imagenet"


def test_options_come_last_and_reach_every_program_of_a_part(tmp_path):
    path = edited(tmp_path, r"^method = .*", 'method = "X"\noptions = ["a=1", "b=2"]')
    stages = {stage.name: stage for stage in plan(load_recipe(path), tmp_path, (0,))}
    for name in ("seed0-pretrain", "seed0-views"):
        assert stages[name].argv[-3:] == ("--cfg-options", "a=1", "b=2")
    assert "--cfg-options" not in stages["seed0-coco-random"].argv
