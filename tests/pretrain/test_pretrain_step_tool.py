"""The benchmark of a pretraining step: what it times is what a run does."""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from cmae_mm.engine.cpu import OneDNNLinear, prefers_onednn
from cmae_mm.errors import UserError

FOLDER = Path(__file__).parents[2] / "tools" / "benchmarks"
MINI = ["--device", "cpu", "--size", "mini", "--batch", "2", "--rounds", "1", "--threads", "1"]
REAL_CHECKOUT = os.environ.get("CMAE_OFFICIAL")  # folder of the official code, where someone has it


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()
    yield import_module("pretrain_step")
    torch.set_num_threads(threads)


@pytest.fixture
def recipes(tool):
    return import_module("_pretrain_recipes")


def mini(recipes, precision="fp32"):
    return recipes.Setting("mini", 2, torch.device("cpu"), precision, False)


def test_prints_rates_and_their_ratio(tool, capsys):
    assert tool.main(MINI) == 0
    first, cmae, mae, ratio = capsys.readouterr().out.splitlines()
    assert "CPU, 1 threads" in first
    assert "mini, batch 2, fp32" in first
    rates = [float(re.search(r"([\d.]+) images/s", line)[1]) for line in (cmae, mae)]
    assert (cmae.split()[0], mae.split()[0]) == ("CMAE", "MAE")
    assert ratio.startswith("CMAE / MAE")
    # one round: the ratio is that of the rates, which are printed with two digits
    assert float(re.search(r"images/s ([\d.]+)", ratio)[1]) == pytest.approx(rates[0] / rates[1], rel=2e-3)


def test_a_process_measures_until_its_input_ends(tool):
    """One model each: its peak has the libraries in it, which alone take some hundred MiB."""
    with import_module("_workers").Worker("MAE", tool.__file__, MINI) as worker:
        (rate, peak), (_, later) = worker.measure(), worker.measure()
        assert rate > 0
        assert 2**27 < peak <= later < 2**33
    assert worker._process.returncode == 0


def test_ours_runs_as_a_training_run_does(tool, recipes, monkeypatch):
    kept = []
    monkeypatch.setattr(tool, "keep_memory", lambda: kept.append(True))
    step = tool.our_step(mini(recipes))
    expected = OneDNNLinear if prefers_onednn() else torch.nn.Linear
    assert type(step.model.backbone.layers[0].attn.qkv) is expected
    assert kept == [True]
    with tool.ExitStack() as stack:
        other = tool.make_step("MAE", None, mini(recipes), stack)
    assert type(other.model.backbone.layers[0].attn.qkv) is torch.nn.Linear


def shapes(recipes, model, parts):
    """Shapes of all weights of some parts of a model config; nothing is computed."""
    found = []
    for part in parts:
        with torch.device("meta"), recipes.DefaultScope.overwrite_default_scope("mmpretrain"):
            state = recipes.MODELS.build(model[part]).state_dict()
        found.append({name: tuple(value.shape) for name, value in state.items()})
    return found


@pytest.mark.parametrize("size", ["mini", "small"])
def test_reduced_sizes_give_all_models_one_encoder_and_decoder(recipes, size):
    ours, mae = recipes.our_recipe().model, recipes.mae_recipe().model
    chosen = recipes.SIZES[size]
    recipes.resize(ours, chosen)
    recipes.resize(mae, chosen)
    encoder, decoder = shapes(recipes, ours, ("backbone", "pixel_decoder"))
    assert [encoder, decoder] == shapes(recipes, mae, ("backbone", "neck"))
    assert encoder["pos_embed"] == (1, (chosen.image // chosen.patch) ** 2 + 1, chosen.width)
    assert decoder["decoder_pred.weight"] == (3 * chosen.patch**2, chosen.decoder[0])
    assert chosen.width == 3 * chosen.patch**2  # else the official feature decoder does not fit
    assert (chosen.image // chosen.patch) % 2 == 0  # whole blocks of 2 x 2 patches


def test_base_size_is_that_of_the_recipes(recipes):
    parts = ("backbone", "pixel_decoder", "feature_decoder", "projector")
    recipe, resized = recipes.our_recipe().model, recipes.our_recipe().model
    recipes.resize(resized, recipes.SIZES["base"])
    assert shapes(recipes, resized, parts) == shapes(recipes, recipe, parts)
    assert resized.data_preprocessor == recipe.data_preprocessor


def test_step_is_a_whole_training_step(recipes):
    setting = mini(recipes)
    config = recipes.our_recipe()
    config.optim_wrapper.optimizer.lr = 1.0  # 1e-4 in the first iteration, so that weights move visibly
    step = recipes.TrainingStep(config, recipes.master_batch(setting, margin=True), setting)
    model = step.model
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    log = step()
    assert log["loss"].item() == pytest.approx((log["loss_rec"] + log["loss_con"]).item())
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved >= {n for n, p in model.named_parameters() if p.requires_grad and "bias" not in n}
    for name, target in model.target_backbone.named_parameters():
        online = model.backbone.get_parameter(name)
        expected = 0.996 * before[f"target_backbone.{name}"] + 0.004 * online
        torch.testing.assert_close(target, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_that_of_the_linear_layers(recipes, precision, dtype):
    setting = mini(recipes, precision)
    step = recipes.TrainingStep(recipes.mae_recipe(), recipes.master_batch(setting, margin=False), setting)
    seen = []
    step.model.backbone.layers[0].attn.qkv.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    loss = step()["loss"]
    assert seen == [dtype]
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("device", "precision", "kind", "dtype"),
    [
        ("cuda", "bf16", AmpOptimWrapper, "bfloat16"),
        ("cuda", "fp16", AmpOptimWrapper, "float16"),
        ("cuda", "fp32", OptimWrapper, None),
        ("cpu", "bf16", OptimWrapper, None),  # mmengine's AMP needs a GPU: autocast around the step
    ],
)
@pytest.mark.parametrize("recipe", ["our_recipe", "mae_recipe"])
def test_every_recipe_gets_the_asked_precision(recipes, recipe, device, precision, kind, dtype):
    config = getattr(recipes, recipe)()
    rate = config.optim_wrapper.optimizer.lr
    recipes.adapt_optimizer(config, recipes.Setting("mini", 2, torch.device(device), precision, False))
    assert config.optim_wrapper.type is kind
    assert config.optim_wrapper.get("dtype") == dtype
    assert dtype or "loss_scale" not in config.optim_wrapper
    assert config.optim_wrapper.optimizer.lr == pytest.approx(1e-4 * rate)


def test_compile_compiles_every_block(recipes, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: compiled.append(type(self)))
    setting = mini(recipes)._replace(compile=True)
    recipes.TrainingStep(recipes.our_recipe(), recipes.master_batch(setting, margin=True), setting)
    assert all(recipes.BLOCK in [base.__name__ for base in kind.__mro__] for kind in compiled)
    assert len(compiled) == 4 + 4 + 4 + 1  # both encoders, both decoders


def test_mistakes_are_one_sentence(tool, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no GPU here"):
        tool.main([*MINI, "--device", "cuda"])
    with pytest.raises(UserError, match=r"there is no cmae/models/algorithms/cmae\.py"):
        tool.main([*MINI, "--official", str(tmp_path)])


MODEL = """
import torch
from mmengine.model import BaseModel
from mmengine.registry import HOOKS as ROOT_HOOKS, MODELS as ROOT_MODELS, Registry

MODELS = Registry("model", parent=ROOT_MODELS, scope="cmae", locations=["cmae.models.algorithms.cmae"])
HOOKS = Registry("hook", parent=ROOT_HOOKS, scope="cmae", locations=["cmae.core.hooks.momentum_update_hook"])
"""
ALGORITHM = """
import torch
from cmae.registry import MODELS
from mmengine.model import BaseModel

@MODELS.register_module()
class CMAE(BaseModel):
    momentum = 0.0

    def __init__(self, hid_channels, in_channels):
        super().__init__()
        self.layer = torch.nn.Linear(3, hid_channels)
        self.norm = torch.nn.SyncBatchNorm(hid_channels)
        self.updates = 0

    def forward(self, img, img_t, mode):
        ones = torch.ones(len(img)).cuda() + torch.distributed.get_rank()
        features = self.norm(self.layer((img + img_t).mean((2, 3)))).sum(1)
        return {"loss_rc": (features - ones).square().mean()}

    def momentum_update(self):
        assert self.momentum == 0.996
"""
HOOK = """
from cmae.registry import HOOKS
from mmengine.hooks import Hook

@HOOKS.register_module()
class MomentumUpdateHook(Hook):
    def before_train_iter(self, runner, batch_idx, **kwargs):
        runner.model.module.momentum = 0.996

    def after_train_iter(self, runner, batch_idx, **kwargs):
        runner.model.momentum_update()
"""
CONFIG = """
import os
default_scope = 'cmae'
model = dict(type='CMAE', hid_channels=1536, in_channels=768)
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic', optimizer=dict(type='AdamW', lr=1e-3))
param_scheduler = [dict(type='LinearLR', start_factor=0.0001)]
custom_hooks = [dict(type='MomentumUpdateHook')]
"""


@pytest.fixture
def checkout(tmp_path):
    """A stand-in for the official code that asks for what it asks for: CUDA, a rank, SyncBN, a wrapped model."""
    recipe = "configs/pre-training/cmae/cmae_vit-base-p16_32xb128-coslr-300e_in1k.py"
    files = {
        "cmae/__init__.py": "",
        "cmae/registry.py": MODEL,
        "cmae/models/algorithms/cmae.py": ALGORITHM,
        "cmae/core/hooks/momentum_update_hook.py": HOOK,
        recipe: CONFIG,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def run_official(path):
    # A process of its own: mmengine keeps registries of foreign scopes for good.
    command = [
        sys.executable,
        str(FOLDER / "pretrain_step.py"),
        *MINI,
        "--official",
        str(path),
    ]
    return subprocess.run(command, capture_output=True, text=True)


def test_official_code_is_timed_where_a_checkout_is_given(checkout):
    done = run_official(checkout)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[-3:-2]] == ["official"]
    assert done.stdout.splitlines()[-1].startswith("CMAE / official")


def test_official_code_that_does_not_import_is_one_sentence(checkout):
    (checkout / "cmae/models/algorithms/cmae.py").write_text("import no_such_module\n")
    done = run_official(checkout)
    assert done.returncode == 2
    assert "does not import here" in done.stderr.splitlines()[-2]


def test_official_code_leaves_nothing_behind(tool, tmp_path, checkout):
    official = import_module("_official_cmae")
    before = list(sys.path)
    with official.official_code(checkout, torch.device("cpu")):
        assert torch.distributed.get_world_size() == 1
        assert str(checkout) in sys.path
    assert sys.path == before
    assert not torch.distributed.is_initialized()


@pytest.mark.skipif(REAL_CHECKOUT is None, reason="CMAE_OFFICIAL names no checkout")
def test_real_official_code_does_the_same_step(tool, recipes):
    official = import_module("_official_cmae")
    setting = mini(recipes)
    with official.official_code(Path(REAL_CHECKOUT), setting.device):
        theirs = official.official_step(Path(REAL_CHECKOUT), setting)
        log = theirs()
    ours = recipes.TrainingStep(recipes.our_recipe(), recipes.master_batch(setting, margin=True), setting)
    assert {k: v.shape for k, v in theirs.model.state_dict().items()} == {
        k: v.shape for k, v in ours.model.state_dict().items()
    }
    assert set(log) == {"loss", "loss_ct", "loss_rc"}
