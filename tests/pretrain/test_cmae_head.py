"""Losses against slow loops, and InfoNCE over two processes against one large batch."""

import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cmae_mm.errors import UserError
from cmae_mm.pretrain.heads import CMAEPretrainHead, info_nce

MLP = dict(
    type="NonLinearNeck",
    in_channels=8,
    hid_channels=16,
    out_channels=8,
    with_last_bn=False,
    with_avg_pool=False,
    norm_cfg=dict(type="BN1d", eps=1e-6),
)


def head(**kwargs):
    return CMAEPretrainHead(predictor=MLP, patch_size=4, **kwargs)


def test_patchify_layout_and_inverse():
    images = torch.randn(2, 3, 8, 12)[..., :8]
    tokens = head().patchify(images)
    assert tokens[1, 3, (2 * 4 + 1) * 3 + 2] == images[1, 2, 4 + 2, 4 + 1]  # (row, column, channel)
    assert torch.equal(head().unpatchify(tokens), images)


def test_reconstruction_loss_by_hand():
    images, mask = torch.randn(2, 3, 8, 8), torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 0]])
    images[0, :, :4, :4] = 0.3  # a constant patch: no division by zero
    pred = torch.randn(2, 4, 48)
    total = 0.0
    for n in range(2):
        for patch in range(4):
            if mask[n, patch] == 0:
                continue
            row, col = divmod(patch, 2)
            values = [
                images[n, c, 4 * row + p, 4 * col + q].item()
                for p in range(4)
                for q in range(4)
                for c in range(3)
            ]
            mean = sum(values) / 48
            spread = math.sqrt(sum((v - mean) ** 2 for v in values) / 47 + 1e-6)  # unbiased
            total += (
                sum((pred[n, patch, i].item() - (v - mean) / spread) ** 2 for i, v in enumerate(values)) / 48
            )
    ours = head().reconstruction_loss(pred, images, mask)
    assert ours.item() == pytest.approx(total / 4, abs=1e-4)
    changed = pred + 100 * (1 - mask).unsqueeze(-1)  # visible patches have no say
    assert torch.equal(head().reconstruction_loss(changed, images, mask), ours)


def test_info_nce_by_hand():
    query, keys = torch.randn(3, 5), torch.randn(7, 5)
    expected = 0.0
    for i in range(3):
        sims = [torch.cosine_similarity(query[i], k, dim=0).item() / 0.07 for k in keys]
        expected += math.log(sum(math.exp(s) for s in sims)) - sims[i + 2]
    assert info_nce(query, keys, 0.07, offset=2).item() == pytest.approx(expected / 3, abs=1e-4)


def test_scale_and_weight():
    projection, target = torch.randn(6, 8), torch.randn(6, 8)
    released, paper = head(), head(contrastive_scale="1")
    paper.load_state_dict(released.state_dict())
    base = paper.contrastive_loss(projection, target)
    torch.testing.assert_close(released.contrastive_loss(projection, target), 0.14 * base)
    half = head(con_weight=0.5, rec_weight=2.0)
    half.load_state_dict(released.state_dict())
    args = (torch.randn(6, 4, 48), torch.randn(6, 3, 8, 8), torch.ones(6, 4), projection, target)
    one, other = released.loss(*args), half.loss(*args)
    torch.testing.assert_close(other["loss_con"], 0.5 * one["loss_con"])
    torch.testing.assert_close(other["loss_rec"], 2.0 * one["loss_rec"])
    with pytest.raises(UserError, match="contrastive_scale"):
        head(contrastive_scale="2")


def test_no_gradient_reaches_the_keys():
    projection = torch.randn(4, 8, requires_grad=True)
    target = torch.randn(4, 8, requires_grad=True)
    head().contrastive_loss(projection, target).backward()
    assert projection.grad.abs().sum() > 0
    assert target.grad is None


def test_restored_pixels_of_a_perfect_prediction():
    images = torch.randn(2, 3, 8, 8)
    perfect = head().construct_target(images)
    torch.testing.assert_close(head().restore_pixels(perfect, images), images, atol=1e-5, rtol=0)


def test_two_processes_equal_one_large_batch(tmp_path):
    queries, keys = torch.randn(6, 8), torch.randn(6, 8)
    torch.save({"queries": queries, "keys": keys}, tmp_path / "data.pt")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    worker = [sys.executable, str(Path(__file__).with_name("infonce_worker.py")), str(tmp_path)]
    workers = [subprocess.Popen(worker, env={**shared, "RANK": str(rank)}) for rank in range(2)]
    assert [process.wait(timeout=90) for process in workers] == [0, 0]
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]

    whole = queries.clone().requires_grad_()
    loss = info_nce(whole, keys, 0.07)
    loss.backward()
    torch.testing.assert_close((parts[0]["loss"] + parts[1]["loss"]) / 2, loss.detach(), atol=1e-5, rtol=0)
    # Each process averages over its own three queries; DDP then averages over processes.
    grad = torch.cat([part["grad"] for part in parts]) / 2
    torch.testing.assert_close(grad, whole.grad, atol=1e-5, rtol=0)
