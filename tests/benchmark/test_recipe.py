"""A recipe's mistakes are named before anything runs; the stage graph is the experiment that was meant."""

import itertools

import pytest

from cmae_mm.benchmark.bench import seeds_of
from cmae_mm.benchmark.costs import cost_of
from cmae_mm.benchmark.plan import Plan
from cmae_mm.benchmark.reading import RECIPES, library, load_recipe
from cmae_mm.benchmark.recipe import Cost
from cmae_mm.benchmark.selecting import chosen, with_commands
from cmae_mm.errors import UserError

OWN = """
title = "own"
seeds = [0]
backbones = ["random-mini", "cmae-mini"]
[data]
command = "mini"
[[tasks]]
name = "coco"
title = "COCO"
protocol = "p"
config = "configs/mini/mask-rcnn_vitdet-mini_coco.py"
data = "coco"
main_metrics = ["coco/bbox_mAP"]
pictures = "detections"
[[tasks]]
like = "mini-ade20k"
name = "ade"
options = ["a=1", "b=2"]
"""


@pytest.fixture
def recipe():
    return load_recipe("mini")


def written(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        ('title = "own"', "title = [", "not valid TOML"),
        ('title = "own"\n', "", r"missing or unknown \('title'\)"),
        ("seeds = [0]", "seeds = []", "seeds must be"),
        ("seeds = [0]", 'seeds = ["a"]', "seeds must be"),
        ("seeds = [0]", "seeds = 3", "seeds must be"),
        ("seeds = [0]", "seeds = [0]\nspeed = 3", "speed"),
        ("[data]", 'data = "mini"\n[slurm]', "missing or unknown"),
        ('command = "mini"', "", r"\[data\] needs command or root"),
        ("[data]", "[slurm]\nnodes = 3\n[data]", "nodes"),
        ('"cmae-mini"', '"cmae-mino"', "'cmae-mino'.* did you mean 'cmae-mini'"),
        ('"cmae-mini"', '{ like = "cmae-mini" }', "needs a name of its own"),
        ('"cmae-mini"', '{ name = "x" }', "missing or unknown .*method"),
        ('"cmae-mini"', '{ name = "a/b", method = "X" }', "'a/b' is no name"),
        (
            '"cmae-mini"',
            '{ name = "x", method = "X", config = "configs/mini/none.py" }',
            "configs/mini/none.py",
        ),
        ('"cmae-mini"', '{ like = "cmae-mini", name = "x", source = "a.pth" }', "config and a source"),
        ('"cmae-mini"', '{ like = "cmae-mini", name = "x", tasks = ["cocoa"] }', "the task 'cocoa'"),
        ('"random-mini", "cmae-mini"', "", "must each name at least one"),
        ('protocol = "p"\n', "", "protocol"),
        ('pictures = "detections"', 'pictures = "movies"', "no picture tool 'movies'"),
        ('pictures = "detections"', 'program = "fly"', "tools/fly.py"),
        ('pictures = "detections"', 'fits = { arch = "ViT-G" }', "takes none of the backbones"),
        ('pictures = "detections"', 'fits = { size = "B" }', "'size'"),
        ('name = "ade"', 'name = "coco"', "two tasks are named 'coco'"),
        ('["coco/bbox_mAP"]', '"coco/bbox_mAP"', "main_metrics of coco"),
    ],
)
def test_mistakes_are_named(tmp_path, before, after, what):
    assert before in OWN
    path = written(tmp_path, OWN.replace(before, after, 1))
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
    assert load_recipe("mini") == load_recipe(RECIPES / "mini.toml")


def test_like_takes_an_entry_and_changes_it(tmp_path):
    own = load_recipe(written(tmp_path, OWN)).tasks[1]
    base = next(t for t in load_recipe("mini").tasks if t.name == "mini-ade20k")
    assert (own.title, own.config, own.fits, own.cost) == (base.title, base.config, base.fits, base.cost)
    assert (own.name, own.options) == ("ade", ("a=1", "b=2"))


def test_fits_allow_and_exclude(tmp_path):
    text = OWN.replace('pictures = "detections"', 'fits = { method = ["!CMAE"] }').replace(
        '"cmae-mini"]', '"cmae-mini", "mae-mini"]'
    )
    pairs = {(b.method, t.name) for b, t in load_recipe(written(tmp_path, text)).pairs()}
    assert pairs == {
        ("random init", "coco"), ("MAE", "coco"), ("random init", "ade"), ("CMAE", "ade"), ("MAE", "ade"),
    }  # fmt: skip


def test_costs_by_hand():
    # 2 x 10^9 x 2 operations an image, 50 x 10^12 a second
    cost = cost_of({"gmacs": 2.0, "images": 45_000_000_000, "gpus": 4}, None)
    assert cost.gpu_hours == pytest.approx(45e9 * 4e9 / 50e12 / 3600) == pytest.approx(1000)
    assert cost.gpus == 4
    assert "2 G multiply-adds" in cost.basis
    epochs = cost_of({"gmacs": 1.0}, 10)
    assert epochs.gpu_hours == pytest.approx(10 * 1_281_167 * 2e9 / 50e12 / 3600)
    assert cost_of({"gpu_hours": 3, "basis": "b"}, None) == Cost(gpu_hours=3, basis="b")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), (4,)),
        (("3",), (4, 5, 6)),
        (("1",), (4,)),
        (("7,",), (7,)),
        (("0,1,2",), (0, 1, 2)),
        (("0", "1", "2"), (0, 1, 2)),
        (("1", "1"), (1,)),
    ],
)
def test_seeds(tmp_path, words, expected):
    recipe = load_recipe(written(tmp_path, OWN.replace("[0]", "[4]")))
    assert seeds_of(words, recipe) == expected


@pytest.mark.parametrize("words", [("0",), ("a",), ("-1",), (",",)])
def test_seeds_that_are_none(recipe, words):
    with pytest.raises(UserError, match="--seeds"):
        seeds_of(words, recipe)


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 7)])
def test_the_graph_is_whole_and_in_order(recipe, tmp_path, seeds):
    stages = Plan(recipe, tmp_path, seeds).stages
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    known = set()
    for stage in stages:
        assert set(stage.needs) <= known  # so it is topological too
        known.add(stage.name)
    # data; pretrain, import, views and two sides a task for each seed; pictures of the first seed
    pictures = sum(bool(task.pictures) for task in recipe.tasks)
    assert len(stages) == 1 + len(seeds) * (3 + 2 * len(recipe.tasks)) + pictures


def test_one_pretraining_serves_all_seeds_unless_each_has_its_own(tmp_path):
    stages = Plan(load_recipe(written(tmp_path, OWN)), tmp_path, (0, 1)).stages
    assert [s.name for s in stages if s.kind == "pretrain"] == ["cmae-mini-seed0.pretrain"]
    reading = [s for s in stages if "cmae-mini-seed0.import" in s.needs]
    assert {s.name for s in reading} == {f"cmae-mini-seed{i}.{t}" for i in (0, 1) for t in ("coco", "ade")}


def test_outputs_are_never_shared(recipe, tmp_path):
    stages = Plan(recipe, tmp_path, (0, 1)).stages
    made = [path for stage in stages for path in stage.makes]
    assert len(set(made)) == len(made)
    assert all(path.is_relative_to(tmp_path) for path in made)
    works = [stage.work for stage in stages if stage.work]
    assert len(set(works)) == len(works)


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
    """Fairness: two rows differ in --backbone (and where they write), in nothing else."""
    stages = {stage.name: stage for stage in Plan(recipe, tmp_path, (0, 5)).stages}
    for seed, task in itertools.product((0, 5), recipe.tasks):
        random, pretrained = (stages[f"{b}-mini-seed{seed}.{task.name}"] for b in ("random", "cmae"))
        assert "--backbone" not in random.argv
        words, file = list(pretrained.argv), tmp_path / "backbones" / f"cmae-mini-seed{seed}.safetensors"
        assert words[words.index("--backbone") + 1] == str(file)
        assert without(random.argv, "--work-dir") == without(words, "--work-dir", "--backbone")
        assert words[words.index("--seed") + 1] == str(seed)
        assert pretrained.inputs == (file, *random.inputs)
        assert random.inputs == (tmp_path / "data" / "manifest.json",)


def test_no_stage_looks_past_what_it_was_made_from(recipe, tmp_path):
    """A file that one stage makes and another reads is hashed by the reader, so new content runs it again."""
    stages = Plan(recipe, tmp_path, (0, 1)).stages
    made = {str(path): stage.name for stage in stages for path in stage.makes}
    for stage in stages:
        read = [word for word in stage.argv if word in made and made[word] != stage.name]
        assert {made[word] for word in read} <= set(stage.needs)
        assert {str(path) for path in stage.inputs} >= set(read)


def test_existing_data_needs_no_stage(tmp_path):
    path = written(tmp_path, OWN.replace('command = "mini"', 'root = "/data/sets"'))
    stages = Plan(load_recipe(path), tmp_path, (0,)).stages
    assert "data" not in {stage.name for stage in stages} | {n for stage in stages for n in stage.needs}
    words = list(stages[0].argv)
    assert words[words.index("--data-root") + 1] == "/data/sets/imagenet"


def test_options_come_last_and_reach_every_program_of_a_part(tmp_path):
    stages = {s.name: s for s in Plan(load_recipe(written(tmp_path, OWN)), tmp_path, (0,)).stages}
    for name in ("random-mini-seed0.ade", "cmae-mini-seed0.ade", "cmae-mini.ade-pictures"):
        assert stages[name].argv[-3:] == ("--cfg-options", "a=1", "b=2")
    assert "--cfg-options" not in stages["cmae-mini-seed0.coco"].argv


def test_given_weights_are_imported_and_evaluations_follow(tmp_path):
    weights = tmp_path / "own.pth"
    weights.write_bytes(b"1")
    text = OWN.replace(
        '"cmae-mini"',
        f'{{ name = "given", method = "Y", source = "{weights}", import_options = ["--heads", "4"] }}',
    )
    text = text.replace(
        'pictures = "detections"',
        'evaluations = [{ name = "tta", title = "T", protocol = "q", main_metrics = ["m"], arguments = ["--tta"] }]',
    )
    text += "fits = { method = ['Y'] }\n"
    stages = {s.name: s for s in Plan(load_recipe(written(tmp_path, text)), tmp_path, (0,)).stages}
    imported = stages["given.import"]
    assert imported.inputs == (weights,)
    assert imported.argv[4] == str(weights)
    assert imported.argv[-2:] == ("--heads", "4")
    extra = stages["given-seed0.coco-tta"]
    checkpoint = tmp_path / "runs" / "given" / "seed0" / "coco" / "last.pth"
    assert extra.needs == ("given-seed0.coco",)
    assert extra.inputs == (checkpoint,)
    assert extra.argv[-1] == "--tta"
    assert extra.argv[3] == str(checkpoint)
    assert (extra.record["kind"], extra.record["protocol"], extra.record["task"]) == ("evaluate", "q", "T")
    assert stages["random-mini-seed0.coco-tta"].record["protocol"] == "q"
    assert "random-mini-seed0.ade" not in stages


def test_a_path_to_weights_is_below_the_data_or_here(tmp_path, monkeypatch):
    (tmp_path / "sets" / "weights").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    text = OWN.replace('"cmae-mini"', '{ name = "given", method = "Y", source = "weights/y.pth" }')
    recipe = load_recipe(written(tmp_path, text.replace('command = "mini"', 'root = "sets"')))

    def source():
        return next(s for s in Plan(recipe, tmp_path / "out", (0,)).stages if s.kind == "import").inputs

    below, here = tmp_path / "sets" / "weights" / "y.pth", tmp_path / "weights" / "y.pth"
    assert source() == (below,)  # named in the message when it is nowhere
    here.parent.mkdir()
    here.touch()
    assert source() == (here,)
    below.touch()
    assert source() == (below,)


def test_only_keeps_what_is_named_and_what_it_needs(recipe, tmp_path):
    stages = Plan(recipe, tmp_path, (0,)).stages
    names = {s.name for s in chosen(stages, ["mini-coco"])}
    assert names == {
        "data", "cmae-mini-seed0.pretrain", "cmae-mini-seed0.import", "random-mini-seed0.mini-coco",
        "cmae-mini-seed0.mini-coco", "cmae-mini.mini-coco-pictures",
    }  # fmt: skip
    assert "cmae-mini-seed0.views" in {s.name for s in chosen(stages, ["cmae-mini"])}
    assert {s.name for s in chosen(stages, ["random-*"])} == {"data"} | {
        f"random-mini-seed0.{task.name}" for task in recipe.tasks
    }
    assert [s.kind for s in chosen(stages, ["pretrain"])] == ["data", "pretrain"]
    assert chosen(stages, []) == stages
    with pytest.raises(UserError, match=r"--only nothing: names no stage .*mini-coco"):
        chosen(stages, ["nothing"])


def test_records_name_all_commands_that_lead_to_them(recipe, tmp_path):
    stages = {s.name: s for s in with_commands(Plan(recipe, tmp_path, (0,)).stages)}
    commands = stages["cmae-mini-seed0.mini-coco"].record["command"]
    assert [c[:2] for c in commands] == [
        ["cmae-mm", "data"], ["python", "tools/train.py"], ["cmae-mm", "import"], ["python", "tools/train.py"],
    ]  # fmt: skip
    assert len(stages["random-mini-seed0.mini-coco"].record["command"]) == 2


def test_names_of_the_library_are_unique_and_simple():
    backbones, tasks = library()
    assert not set(backbones) & set(tasks)
