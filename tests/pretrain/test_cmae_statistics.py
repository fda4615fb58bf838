"""Batch norms of the MLP heads and the moving average over several steps, written out."""

import pytest
import torch
import torch.nn.functional as F

from cmae_mm.pretrain import CMAE


def by_hand(neck, x, statistics):
    """fc0, batch norm with eps 1e-6, ReLU, fc1 without bias."""
    mean, var = statistics
    hidden = x @ neck.fc0.weight.t() + neck.fc0.bias
    hidden = (hidden - mean) / (var + 1e-6).sqrt() * neck.bn0.weight + neck.bn0.bias
    return F.relu(hidden) @ neck.fc1.weight.t()


@pytest.mark.parametrize("name", ["projector", "target_projector", "head.predictor"])
def test_mlp_heads_in_training_and_evaluation(tiny_cmae, name):
    neck = tiny_cmae().get_submodule(name)
    neck.bn0.weight.data.uniform_(0.5, 1.5)
    neck.bn0.bias.data.normal_()
    x = torch.randn(6, neck.fc0.in_features)
    hidden = x @ neck.fc0.weight.t() + neck.fc0.bias
    mean, biased, unbiased = hidden.mean(0), hidden.var(0, unbiased=False), hidden.var(0)
    assert neck.fc1.bias is None
    with torch.no_grad():
        torch.testing.assert_close(neck.train()((x,))[0], by_hand(neck, x, (mean, biased)), atol=1e-5, rtol=0)
        # PyTorch's momentum of 0.1: a tenth of the new batch, whose variance is unbiased
        torch.testing.assert_close(neck.bn0.running_mean, 0.1 * mean)
        torch.testing.assert_close(neck.bn0.running_var, 0.9 + 0.1 * unbiased)
        running = neck.bn0.running_mean, neck.bn0.running_var
        torch.testing.assert_close(neck.eval()((x,))[0], by_hand(neck, x, running), atol=1e-5, rtol=0)


def test_statistics_of_the_target_are_its_own(tiny_cmae):
    """One training step moves the statistics of all three heads, each by its own batch; the update copies none."""
    model: CMAE = tiny_cmae()
    model.init_weights()
    model.train()
    inputs = {}
    for name in ("projector", "target_projector"):
        neck = getattr(model, name)
        neck.fc0.register_forward_hook(lambda _m, _a, out, name=name: inputs.__setitem__(name, out.detach()))
    model.loss([torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)])
    for name, hidden in inputs.items():
        torch.testing.assert_close(getattr(model, name).bn0.running_mean, 0.1 * hidden.mean(0))
    before = model.target_projector.bn0.running_mean.clone()
    model.momentum_update()
    assert torch.equal(model.target_projector.bn0.running_mean, before)
    assert not torch.allclose(before, model.projector.bn0.running_mean)


@pytest.mark.parametrize("steps", [1, 5])
def test_moving_average_over_steps(tiny_cmae, steps):
    model: CMAE = tiny_cmae(momentum=0.9)
    model.init_weights()
    pairs = {
        name: (parameter.clone(), name.removeprefix("target_"))
        for name, parameter in model.named_parameters()
        if name.startswith("target_")
    }
    assert len(pairs) == 153 - 10 * 12  # the full model has 12 blocks of 12 tensors, this one 2
    expected = {name: start for name, (start, _) in pairs.items()}
    for _ in range(steps):
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += torch.randn_like(parameter)
        for name, (_, online) in pairs.items():
            expected[name] = 0.9 * expected[name] + 0.1 * model.get_parameter(online).detach()
        model.momentum_update()
    for name, value in expected.items():
        torch.testing.assert_close(model.get_parameter(name).detach(), value, atol=1e-5, rtol=0)
