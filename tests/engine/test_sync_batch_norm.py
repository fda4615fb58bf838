"""Batch norm over CPU processes: alone it is torch's; with others, tests/pretrain/test_equivalence.py."""

import torch
from torch import nn

from cmae_mm.engine import sync_batch_norm
from cmae_mm.engine.sync_batch_norm import CPUSyncBatchNorm, sync_on_cpu


def test_layers_are_replaced_with_their_parameters():
    model = nn.Sequential(
        nn.Linear(3, 4), nn.Sequential(nn.SyncBatchNorm(4, eps=1e-3, momentum=0.2, affine=True))
    )
    nn.init.normal_(model[1][0].weight)
    parameters, state = list(model.parameters()), model.state_dict()
    assert sync_on_cpu(model) is model
    assert type(model[1][0]) is CPUSyncBatchNorm
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    torch.testing.assert_close(dict(model.state_dict()), dict(state))
    assert (model[1][0].eps, model[1][0].momentum) == (1e-3, 0.2)
    assert type(sync_on_cpu(nn.SyncBatchNorm(2, affine=False))) is CPUSyncBatchNorm


def test_sums_over_two_processes_that_hold_the_same(monkeypatch):
    """Two equal batches have the mean and variance of one, and together a smaller unbiased variance."""
    monkeypatch.setattr(sync_batch_norm, "get_world_size", lambda: 2)
    monkeypatch.setattr(sync_batch_norm, "total_of_processes", lambda x: 2 * x)
    ours, plain = CPUSyncBatchNorm(3).double(), nn.BatchNorm2d(3).double()
    x = torch.randn(4, 3, 2, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(x), plain(x), atol=1e-12, rtol=0)
    second = nn.BatchNorm2d(3).double()
    second(torch.cat([x, x]))
    torch.testing.assert_close(ours.running_var, second.running_var)
    torch.testing.assert_close(ours.running_mean, second.running_mean)


def test_alone_and_in_evaluation_it_is_plain_batch_norm():
    ours, plain = CPUSyncBatchNorm(3), nn.BatchNorm1d(3)
    x = torch.randn(6, 3)
    assert torch.equal(ours(x), plain(x))
    assert torch.equal(ours.eval()(x), plain.eval()(x))
    assert torch.equal(ours.running_var, plain.running_var)
