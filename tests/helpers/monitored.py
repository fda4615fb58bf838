"""A small model, its images and a runner, for what looks at training."""

import random
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from cmae_mm.pretrain.masking import Mask, block_mask
from cmae_mm.pretrain.monitor import (
    KNNProbeHook,
)

SIZE, GRID, CLASSES = 8, 4, 3


class Images(torch.utils.data.Dataset):
    """Noise around one colour for each class. Reading draws from every source of random numbers."""

    def __init__(self, n, seed=0, unknown=False):
        self.n, self.seed, self.unknown = n, seed, unknown

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        random.random(), np.random.rand(), torch.rand(1)
        generator = torch.Generator().manual_seed(1000 * self.seed + i)
        noise = torch.randint(0, 160, (3, SIZE, SIZE), generator=generator)
        noise[i % CLASSES] += 8
        return {"inputs": noise.to(torch.uint8), "label": -1 if self.unknown else i % CLASSES}


class Model(nn.Module):
    """Says about itself what the hooks ask a pretraining model for."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm1d(2).eval()
        self.backbone = SimpleNamespace(
            draw_mask=lambda n, device, generator: block_mask(n, GRID, 0.5, 2, generator)
        )

    def data_preprocessor(self, data, training):
        assert not training
        return {"inputs": data["inputs"].float() / 255}

    def pool_feat(self, images):
        assert not torch.is_grad_enabled()
        torch.rand(1)
        return self.drop(self.bn(images)).mean(dim=(2, 3)) - 0.4


class Views:
    """A data preprocessor without draws: RGB in, units of 1/255 out."""

    def __call__(self, data, training):
        assert not training
        return {"inputs": data["inputs"].float() / 255}

    def to_pixels(self, images):
        return (images * 255).round().clamp(0, 255).to(torch.uint8)


class Painter(Model):
    """Paints all pixels with one value, which training would change."""

    value = 0.5

    def __init__(self):
        super().__init__()
        self.data_preprocessor = Views()

    def reconstruct(self, images, masks):
        assert isinstance(masks, Mask)
        side = SIZE // GRID
        hidden = masks.mask.view(-1, 1, GRID, GRID).repeat_interleave(side, 2).repeat_interleave(side, 3)
        return SimpleNamespace(image=torch.full_like(images, self.value), mask=hidden)


def fake_runner(work, model, epoch=0, max_epochs=20):
    seen = []
    return SimpleNamespace(
        model=model,
        work_dir=str(work),
        epoch=epoch,
        iter=100 * epoch,
        max_epochs=max_epochs,
        rank=0,
        timestamp="now",
        logger=SimpleNamespace(info=lambda text: seen.append(text), warning=lambda text: None),
        visualizer=SimpleNamespace(
            add_scalars=lambda values, step, file_path: seen.append((values, step)),
            add_image=lambda name, image, step: seen.append((name, image, step)),
        ),
        optim_wrapper=SimpleNamespace(optim_context=lambda model: nullcontext()),
        seen=seen,
    )


def probe(**more):
    return KNNProbeHook(bank=dict(type=Images, n=37), queries=dict(type=Images, n=23, seed=1), k=5, **more)
