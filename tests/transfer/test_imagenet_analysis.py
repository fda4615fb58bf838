"""Attention distance, NMI, CKA, ranks: closed forms, drawn matrices and slow loops; and the whole command."""

import cmae_mm.compat  # noqa: F401  (before torchvision, which the libraries import)

# isort: split
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from sklearn.decomposition import PCA

from cmae_mm.engine.launch import train_main
from cmae_mm.transfer.analysis.attention import (
    among_patches,
    attention_distance,
    attention_maps,
    attention_nmi,
    patch_distances,
)
from cmae_mm.transfer.analysis.command import analysis_main
from cmae_mm.transfer.analysis.pictures import principal_colours, project
from cmae_mm.transfer.analysis.rank import covariance_rank, lidar, rankme
from cmae_mm.transfer.analysis.similarity import BatchedCKA, gram, hsic
from cmae_mm.transfer.imagenet import ImageNetViT

CONFIG = "configs/mini/vit-mini-p8_finetune_imagenet.py"


def drawn_weights(side=3, heads=2, seed=0):
    return torch.randn(
        2, heads, side * side, side * side, generator=torch.Generator().manual_seed(seed)
    ).softmax(-1)


def test_distances_of_known_attention():
    distances = patch_distances((14, 14), 16)
    assert distances.max() == pytest.approx(13 * 16 * math.sqrt(2), rel=1e-6)
    n = len(distances)
    uniform = torch.full((1, 1, n, n), 1 / n)
    assert attention_distance(uniform, distances).item() == pytest.approx(116.5, abs=0.05)
    assert attention_distance(torch.eye(n)[None, None], distances).item() == 0
    right = torch.eye(n).roll(1, dims=1).view(14, 14, n)  # every patch looks at its neighbour to the right
    inside = right[:, :-1].reshape(1, 1, -1, n)
    assert attention_distance(inside, distances.view(14, 14, n)[:, :-1].reshape(-1, n)).item() == 16


def test_distance_against_a_slow_loop():
    weights = drawn_weights()
    for b in range(2):
        for h in range(2):
            total = 0.0
            for q in range(9):
                for k in range(9):
                    steps = math.hypot(q // 3 - k // 3, q % 3 - k % 3)
                    total += weights[b, h, q, k].item() * 8 * steps / 9
            found = attention_distance(weights, patch_distances((3, 3), 8))[b, h].item()
            assert found == pytest.approx(total, rel=1e-5)


def test_nmi_of_known_attention_and_against_a_slow_loop():
    n = 16
    assert attention_nmi(torch.full((1, 1, n, n), 1 / n)).item() == pytest.approx(0, abs=1e-5)
    assert attention_nmi(torch.eye(n).roll(3, 0)[None, None]).item() == pytest.approx(1, abs=1e-4)
    same = torch.softmax(torch.randn(n), 0).expand(1, 1, n, n)  # all queries look alike, but not everywhere
    assert attention_nmi(same).item() == pytest.approx(0, abs=1e-5)
    weights = drawn_weights()[0, 0].double().numpy()
    key = weights.mean(0)
    information = sum(
        weights[q, k] / 9 * math.log(weights[q, k] / key[k]) for q in range(9) for k in range(9)
    )
    entropy = math.log(9), -sum(p * math.log(p) for p in key)
    expected = information / math.sqrt(entropy[0] * entropy[1])
    assert attention_nmi(drawn_weights())[0, 0].item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("relative", [False, True])
def test_maps_are_those_of_the_model_without_its_class_token(relative):
    arch = dict(embed_dims=24, num_layers=1, num_heads=3, feedforward_channels=24)
    torch.manual_seed(0)
    vit = ImageNetViT(arch=arch, img_size=32, patch_size=8, relative_positions=relative).eval()
    attention = vit.layers[0].attn
    torch.nn.init.normal_(attention.qkv.weight, std=0.5)
    x = torch.randn(2, 17, 24)
    with torch.no_grad():
        qkv, bias = attention.qkv(x), 0.0
        if relative:
            torch.nn.init.normal_(attention.relative_position_bias_table)
            bias = attention.bias_of((4, 4))
        weights = attention_maps(qkv, 3, bias)
        values = qkv.unflatten(2, (3, 3, 8))[:, :, 2].permute(0, 2, 1, 3)
        mixed = (weights @ values).transpose(1, 2).flatten(2)
        torch.testing.assert_close(attention.proj(mixed), attention(x), atol=1e-5, rtol=1e-5)
    kept = among_patches(weights)
    assert kept.shape == (2, 3, 16, 16)
    torch.testing.assert_close(kept.sum(-1), torch.ones(2, 3, 16))
    torch.testing.assert_close(kept[0, 1, 4] / kept[0, 1, 4, 0], weights[0, 1, 5, 1:] / weights[0, 1, 5, 1])


def slow_hsic(x, y):
    """Written as in the paper, with the matrices in full."""
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    n, one = len(k), np.ones(len(k))
    middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + middle - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


@pytest.mark.parametrize("n", [4, 5, 20])
def test_hsic_against_the_formula_and_under_shifts(n):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, 6)), rng.normal(size=(n, 3))
    found = hsic(gram(torch.tensor(x)), gram(torch.tensor(y))).item()
    assert found == pytest.approx(slow_hsic(x, y), rel=1e-9, abs=1e-12)
    assert found == pytest.approx(slow_hsic(x + 5, y - 3), rel=1e-6, abs=1e-9)
    same = gram(torch.tensor(x))
    before = same.clone()
    hsic(same, same)
    assert torch.equal(same, before)


def cka(*pairs):
    total = BatchedCKA()
    for x, y in pairs:
        total.update([x], [y])
    return total.result().item()


def test_cka_of_known_pairs():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(500, 300, generator=generator) for _ in range(2))
    rotation = torch.linalg.qr(torch.randn(300, 300, generator=generator)).Q
    assert cka((x, 3 * x @ rotation + 1)) == pytest.approx(1, abs=1e-5)
    assert abs(cka((x, y))) < 0.02
    a, b = ((v - v.mean(0)).double() for v in (x, y))
    biased = (a.T @ b).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())
    assert biased > 0.3  # why the unbiased estimate is used


def test_cka_averages_over_batches_before_it_divides():
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(8, 5)), rng.normal(size=(8, 7))) for _ in range(3)]
    batches = [(x, np.concatenate((x[:, :4], y), axis=1)) for x, y in batches]
    parts = [[slow_hsic(x, y), slow_hsic(x, x), slow_hsic(y, y)] for x, y in batches]
    cross, own, other = np.mean(parts, axis=0)
    pairs = [(torch.tensor(x), torch.tensor(y)) for x, y in batches]
    assert cka(*pairs) == pytest.approx(cross / math.sqrt(own * other), rel=1e-9)
    short = (torch.randn(5, 5), torch.randn(5, 7))
    assert cka(*pairs, short) == cka(*pairs)  # a smaller last batch is left out
    assert BatchedCKA().result().numel() == 0


@pytest.mark.parametrize(("n", "d"), [(40, 12), (12, 40)])
def test_ranks_of_known_matrices(n, d):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator)
    orthonormal = torch.linalg.svd(x, full_matrices=False)
    flat = orthonormal.U @ orthonormal.Vh
    assert rankme(flat, epsilon=0) == pytest.approx(min(n, d), rel=1e-5)
    assert rankme(flat) == pytest.approx(min(n, d), rel=1e-4)
    one = torch.randn(n, 1, generator=generator) @ torch.randn(1, d, generator=generator)
    assert rankme(one, epsilon=0) == pytest.approx(1, abs=1e-4)
    assert covariance_rank(one) == pytest.approx(1, abs=1e-4)
    values = np.linalg.svd(x.double().numpy(), compute_uv=False)
    p = values / values.sum() + 1e-7
    assert rankme(x) == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-9)
    eigenvalues = np.clip(np.linalg.eigvalsh(np.cov(x.double().numpy().T)), 1e-300, None)
    p = eigenvalues / eigenvalues.sum()
    assert covariance_rank(x) == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-6)
    assert rankme(x + 50) < 0.7 * rankme(x)  # not centred: a common part counts as one dimension


def test_lidar_against_the_formula_and_under_linear_maps():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 1, 6)) * [3, 2, 1, 1, 0.1, 0.1] + 0.5 * rng.normal(size=(30, 5, 6))
    means = x.mean(1)
    between = np.cov(means.T)
    within = sum((v - m).T @ (v - m) for v, m in zip(x, means, strict=True)) / (30 * 4) + 1e-4 * np.eye(6)
    inverse = np.linalg.inv(sqrtm(within).real)
    eigenvalues = np.linalg.eigvalsh(inverse @ between @ inverse)
    p = eigenvalues / eigenvalues.sum() + 1e-8
    assert lidar(torch.tensor(x)) == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-6)
    exact = [lidar(torch.tensor(v), delta=0, epsilon=0) for v in (x, x @ rng.normal(size=(6, 6)) + 7)]
    assert exact[0] == pytest.approx(exact[1], rel=1e-6)


def test_projection_is_pca():
    rows = np.random.default_rng(0).normal(size=(50, 8)) * np.arange(8, 0, -1)
    found, expected = project(rows, 3), PCA(3, svd_solver="full").fit_transform(rows)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-9)
    colours = principal_colours(rows.reshape(2, 5, 5, 8))
    assert colours.shape == (2, 5, 5, 3)
    assert (colours.min(), colours.max()) == (0, 1)


def test_the_command(mini_data, call, loader_options, make_encoder, tmp_path, capsys):
    from cmae_mm.checkpoints import save_backbone

    file = tmp_path / "encoder.safetensors"
    save_backbone(file, *make_encoder(width=128, depth=2, heads=4, hidden=512, image_size=64))
    data = ("--data-root", mini_data / "imagenet")
    options = ("--cfg-options", *loader_options, "model.backbone.arch.num_layers=2")
    train = ("--work-dir", tmp_path / "run", *data, *options, "train_cfg.max_epochs=1")
    assert call(train_main, CONFIG, *train) == 0
    words = (
        "--models",
        f"file={file}",
        f"run={tmp_path / 'run/last.pth'}",
        "--images",
        "20",
        "--batch-size",
        "8",
    )
    more = ("--lidar", "4", "3", "--work-dir", tmp_path / "w")
    assert call(analysis_main, CONFIG, *words, *more, *data, *options) == 0
    record = json.loads((tmp_path / "w/representation.json").read_text())
    assert record["cka_batches"] == 2  # of 8; the last 4 images are left out
    assert set(record["cka"]) == {"file|file", "run|run", "file|run"}
    for name in ("file", "run"):
        own = np.array(record["cka"][f"{name}|{name}"])
        assert own.shape == (2, 2)
        np.testing.assert_allclose(np.diag(own), 1, atol=1e-9)
        found = record["models"][name]
        distance, nmi = np.array(found["attention_distance"]), np.array(found["attention_nmi"])
        assert distance.shape == nmi.shape == (2, 4)
        assert ((distance > 0) & (distance < 7 * 8 * math.sqrt(2))).all()
        assert ((nmi > 0) & (nmi < 1)).all()
        for kind in ("mean", "cls"):
            assert all(1 <= value <= 20.01 for value in found["rankme"][kind])
            assert 1 <= found["lidar"][kind] <= 3.01
    for name in ("attention", "cka", "patches", "images"):
        with Image.open(tmp_path / f"w/{name}.png") as picture:
            assert min(picture.size) > 150
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 50
    assert "all digits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--models", "nothing.pth"), "there is no file nothing.pth"),
        (("--models", "a={0}", "a={0}"), "a name of its own"),
    ],
)
def test_wrong_models_are_refused(words, message, call, backbone_file, tmp_path, capsys):
    words = [w.format(backbone_file) for w in words]
    assert call(analysis_main, CONFIG, *words, "--work-dir", tmp_path) == 2
    assert message in capsys.readouterr().err


def test_an_encoder_of_another_size_is_refused(call, backbone_file, mini_data, tmp_path, capsys):
    data = ("--data-root", mini_data / "imagenet", "--work-dir", tmp_path)
    assert call(analysis_main, CONFIG, "--models", backbone_file, *data) == 2
    assert "error:" in capsys.readouterr().err
