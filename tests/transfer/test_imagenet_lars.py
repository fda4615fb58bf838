"""LARS of linear probes against the formula in plain Python, and against what other libraries do under its name."""

import math

import pytest
import torch

from cmae_mm.transfer.lars import LARS


def slow_lars(values, gradients, momentum, decay, trust, rate, buffer):
    """One step for a flat list; `matrix` tensors are scaled and decayed."""
    if buffer["matrix"]:
        gradients = [g + decay * v for g, v in zip(gradients, values, strict=True)]
        size = math.sqrt(sum(v * v for v in values))
        steep = math.sqrt(sum(g * g for g in gradients))
        scale = trust * size / steep if size > 0 and steep > 0 else 1.0
        gradients = [scale * g for g in gradients]
    buffer["m"] = [momentum * m + g for m, g in zip(buffer["m"], gradients, strict=True)]
    return [v - rate * m for v, m in zip(values, buffer["m"], strict=True)]


@pytest.mark.parametrize("decay", [0.0, 1e-2])
@pytest.mark.parametrize(("momentum", "trust"), [(0.9, 0.001), (0.0, 0.02), (0.5, 1.0)])
@pytest.mark.parametrize("shape", [(3, 4), (5,), (2, 3, 2), (1, 1), ()])
def test_agrees_with_the_formula(shape, momentum, trust, decay):
    torch.manual_seed(0)
    parameter = torch.randn(shape, dtype=torch.float64).requires_grad_()
    optimizer = LARS([parameter], lr=1.0, momentum=momentum, weight_decay=decay, trust=trust)
    values = parameter.detach().reshape(-1).tolist()
    buffer = {"matrix": len(shape) > 1, "m": [0.0] * len(values)}
    for step in range(6):
        gradient = torch.randn(shape, dtype=torch.float64)
        rate = 0.3 * (step + 1)  # outside of the momentum: a change acts on old gradients at once
        parameter.grad = gradient
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        values = slow_lars(values, gradient.reshape(-1).tolist(), momentum, decay, trust, rate, buffer)
        assert parameter.detach().reshape(-1).tolist() == pytest.approx(values, rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("zero", ["weight", "gradient"])
def test_without_a_norm_nothing_is_scaled(zero):
    weight = torch.zeros(2, 2) if zero == "weight" else torch.ones(2, 2)
    parameter = weight.clone().requires_grad_()
    parameter.grad = torch.zeros(2, 2) if zero == "gradient" else torch.ones(2, 2)
    LARS([parameter], lr=0.5).step()
    assert torch.equal(parameter.detach(), weight - 0.5 * parameter.grad)


def test_is_not_what_mmpretrain_calls_lars():
    """Its rate is inside of the momentum, and it scales biases: after a change of the rate both differ."""
    from mmpretrain.engine.optimizers import LARS as Other

    for shape in ((4, 3), (4,)):
        torch.manual_seed(0)
        start = torch.randn(shape)
        own, other = (start.clone().requires_grad_() for _ in range(2))
        pair = LARS([own], lr=1.0), Other([other], lr=1.0, momentum=0.9)
        for rate in (1.0, 0.1):
            gradient = torch.randn(shape)
            for optimizer, parameter in zip(pair, (own, other), strict=True):
                parameter.grad = gradient.clone()
                optimizer.param_groups[0]["lr"] = rate
                optimizer.step()
        assert not torch.allclose(own, other, rtol=1e-3)


def test_goes_on_from_a_state():
    torch.manual_seed(0)
    start, gradients = torch.randn(3, 3), torch.randn(4, 3, 3)

    def run(parameter, optimizer, part):
        for gradient in part:
            parameter.grad = gradient
            optimizer.step()

    whole, half = (start.clone().requires_grad_() for _ in range(2))
    run(whole, LARS([whole], lr=1.0), gradients)
    first = LARS([half], lr=1.0)
    run(half, first, gradients[:2])
    second = LARS([half], lr=1.0)
    second.load_state_dict(first.state_dict())
    run(half, second, gradients[2:])
    assert torch.equal(whole, half)
