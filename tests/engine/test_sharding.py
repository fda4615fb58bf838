"""A split model: which parts become units, what is refused; numbers are in tests/pretrain/test_equivalence.py."""

import pytest
import torch
from torch import nn

from cmae_mm.engine.sharding import callable_in_parts, is_split, own_part, repeated_blocks, split_model, whole
from cmae_mm.errors import UserError


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.GELU())


def test_repeated_blocks_are_found_once():
    model = nn.ModuleDict(
        dict(
            encoder=nn.ModuleList([Block(), Block(), Block()]),
            mlp=nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)),  # single layers
            mixed=nn.Sequential(Block(), nn.Linear(2, 2)),
            decoder=nn.Sequential(Block()),
        )
    )
    assert repeated_blocks(model) == [*model["encoder"], *model["decoder"]]


def test_one_process_and_cached_gradients_are_refused(monkeypatch):
    with pytest.raises(UserError, match="one process has nothing to split"):
        split_model(Block(), torch.device("cpu"))
    monkeypatch.setattr("cmae_mm.engine.sharding.get_world_size", lambda: 2)
    model = Block()
    model.grad_cache = True
    with pytest.raises(UserError, match="grad_cache"):
        split_model(model, torch.device("cpu"))


def test_what_is_not_split_stays_as_it_is():
    model = Block()
    assert not is_split(model)
    assert own_part(model.first.weight) is model.first.weight
    with callable_in_parts(model):
        pass
    state = dict(a=[torch.ones(2), 3], b=(None, "x"))
    assert whole(state) == state
