"""What `pretrain_step.py` times: three published recipes, and how they become training steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import AmpOptimWrapper, OptimWrapper, build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, DefaultScope
from torch import Tensor, nn

import cmae_mm.pretrain  # noqa: F401  (registers the model)

OURS = Path(__file__).parents[2] / "configs/pretrain/cmae/cmae_vit-b-p16_32xb128-amp-coslr-300e_in1k.py"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BLOCK = "TransformerEncoderLayer"  # mmpretrain's, from which ours derives, and the official one
BASE_WIDTH, BASE_DECODER_DEPTH = 768, 8  # of the recipes; the feature decoder has a quarter of the depth


class Size(NamedTuple):
    """A reduced model. The official decoders need ``width = 3 * patch**2``: one layer serves as pixels and feature.

    Attributes:
        width: Of the encoder; its depth and heads follow.
        depth: Blocks of the encoder.
        heads: Heads of the encoder.
        patch: Side of a patch in pixels.
        image: Side of a view in pixels.
        shift: Largest shift of CMAE's target view in pixels.
        decoder: Width, depth and heads of the pixel decoder.
    """

    width: int
    depth: int
    heads: int
    patch: int
    image: int
    shift: int
    decoder: tuple[int, int, int]


SIZES = {
    "base": Size(768, 12, 12, 16, 224, 31, (512, 8, 16)),  # the recipes as they are
    "small": Size(432, 12, 6, 12, 168, 23, (288, 8, 9)),  # about a third of the work, as many tokens
    "mini": Size(192, 4, 3, 8, 64, 7, (96, 4, 3)),
}


class Setting(NamedTuple):
    """How all models are measured.

    Attributes:
        size: Key of `SIZES`.
        batch: Images in a step.
        device: Where the step runs.
        precision: Key of `DTYPES`.
        compile: Compile each transformer block.
    """

    size: str
    batch: int
    device: torch.device
    precision: str
    compile: bool


def our_recipe() -> Config:
    """Read the main recipe of CMAE, ViT-B/16."""
    return Config.fromfile(OURS)


def mae_recipe() -> Config:
    """Read mmpretrain's MAE, ViT-B/16, as installed with it: 75 % random masks."""
    import mmpretrain

    folder = Path(mmpretrain.__file__).parent / ".mim/configs/mae"
    config = Config.fromfile(folder / "mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py")
    config.model.data_preprocessor = {"type": "SelfSupDataPreprocessor", **config.data_preprocessor}
    return config


def resize(node: Any, size: Size) -> None:
    """Change every part of a model config to another size, in place; all three recipes use these names.

    Args:
        node: Config of a model, or a part of one.
        size: What it shall be.
    """
    if not isinstance(node, dict):
        return
    if "arch" in node:
        arch = {"embed_dims": size.width, "num_layers": size.depth, "num_heads": size.heads}
        node["arch"] = arch | {"feedforward_channels": 4 * size.width}
        node.update(img_size=size.image, patch_size=size.patch)
    if "decoder_depth" in node:
        width, depth, heads = size.decoder
        node["decoder_depth"] = max(1, depth * node["decoder_depth"] // BASE_DECODER_DEPTH)
        node.update(embed_dim=size.width, decoder_embed_dim=width, decoder_num_heads=heads)
        node.update(patch_size=size.patch, num_patches=(size.image // size.patch) ** 2)
    if "hid_channels" in node:
        node["hid_channels"] = 2 * size.width
        node["in_channels"] = size.width if node["in_channels"] == BASE_WIDTH else node["in_channels"]
    if "norm_pix" in node:
        node["patch_size"] = size.patch
    if "max_shift" in node:
        node.update(size=size.image, max_shift=size.shift)
    for value in node.values():
        resize(value, size)


def adapt_optimizer(config: Config, setting: Setting) -> None:
    """Set the precision, and the learning rate of the first iteration of the warm-up."""
    wrapper = config.optim_wrapper
    amp = setting.device.type == "cuda" and setting.precision != "fp32"
    wrapper.type = AmpOptimWrapper if amp else OptimWrapper
    wrapper.pop("dtype", None)
    if amp:
        wrapper.dtype = {"bf16": "bfloat16", "fp16": "float16"}[setting.precision]
    else:
        wrapper.pop("loss_scale", None)
    wrapper.optimizer.lr *= config.param_scheduler[0].start_factor


class TrainingStep:
    """One whole training step on one batch: views, forward, backward, optimizer, moving average.

    Args:
        config: Recipe of ours, mmpretrain's or the official code's; changed in place.
        batch: What its loader would give, on the device.
        setting: How it is measured.
        around: Makes a context that is entered for each step.
        fit: Fits the model to one process on its device; by default as mmengine's runner does.

    Attributes:
        model: The model, in training.
    """

    def __init__(
        self,
        config: Config,
        batch: dict[str, Any],
        setting: Setting,
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
        fit: Callable[[nn.Module], nn.Module] = revert_sync_batchnorm,
    ) -> None:
        if setting.size != "base":
            resize(config.model, SIZES[setting.size])
        adapt_optimizer(config, setting)
        moving_average = [hook for hook in config.get("custom_hooks", []) if "Momentum" in str(hook["type"])]
        with DefaultScope.overwrite_default_scope(config.default_scope):
            self.model = fit(MODELS.build(config.model))
            self.model.init_weights()
            self.model.to(setting.device).train()
            self._wrapper = build_optim_wrapper(self.model, config.optim_wrapper)
            self._hooks = [HOOKS.build(hook) for hook in moving_average]
        if setting.compile:
            for module in self.model.modules():
                if any(base.__name__ == BLOCK for base in type(module).__mro__):
                    module.compile(dynamic=False)
        # What the hooks ask of a runner. The official one wants a model in a wrapper.
        update = getattr(self.model, "momentum_update", None)
        wrapped = SimpleNamespace(module=self.model, momentum_update=update)
        self._runner = SimpleNamespace(model=wrapped, optim_wrapper=self._wrapper, iter=0, max_iters=100)
        self._batch = batch
        self._around = around
        self._autocast = {
            "device_type": "cpu",
            "dtype": DTYPES[setting.precision],
            "enabled": setting.device.type == "cpu" and setting.precision != "fp32",
        }

    def __call__(self) -> dict[str, Tensor]:
        """Do one step; give what mmengine logs."""
        with self._around(), torch.autocast(**self._autocast):
            for hook in self._hooks:
                hook.before_train_iter(self._runner, 0)
            log = self.model.train_step(dict(self._batch), self._wrapper)
            for hook in self._hooks:
                hook.after_train_iter(self._runner, 0)
        return log


def master_batch(setting: Setting, margin: bool) -> dict[str, Any]:
    """Make uint8 images as a loader gives them: (N, 3, side, side).

    Args:
        setting: How all are measured.
        margin: Add room for CMAE's shift (256 px for views of 224).
    """
    size = SIZES[setting.size]
    side = size.image + (size.shift + 1 if margin else 0)
    images = torch.randint(0, 256, (setting.batch, 3, side, side), dtype=torch.uint8)
    return {"inputs": images.to(setting.device), "data_samples": None}
