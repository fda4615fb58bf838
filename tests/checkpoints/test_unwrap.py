"""Outer keys, branches and prefixes that wrappers leave."""

import pytest
import torch

from cmae_mm.checkpoints.unwrap import OUTER_KEYS, unwrap
from cmae_mm.errors import UserError

STATE = {
    name: torch.full((2,), float(i)) for i, name in enumerate(("cls_token", "norm.weight", "blocks.0.x"))
}


def same(got, expected):
    return set(got) == set(expected) and all(got[k] is v for k, v in expected.items())


def test_bare_tensors_stay():
    found = unwrap(STATE)
    assert same(found.state, STATE)
    assert (found.outer, found.wrappers, found.branches) == ("", "", ())


@pytest.mark.parametrize("key", OUTER_KEYS)
def test_every_outer_key(key):
    found = unwrap({"epoch": 3, "optimizer": {"state": {}}, key: STATE, "args": object()})
    assert same(found.state, STATE)
    assert found.outer == key


@pytest.mark.parametrize("first", range(len(OUTER_KEYS)))
def test_the_first_outer_key_counts_and_none_are_merged(first):
    file = {key: {f"of.{key}": torch.ones(1)} for key in reversed(OUTER_KEYS[first:])}
    found = unwrap(file)
    assert found.outer == OUTER_KEYS[first]
    assert list(found.state) == [f"of.{OUTER_KEYS[first]}"]


@pytest.mark.parametrize("branch", ["teacher", "student"])
def test_a_branch_is_taken_when_asked_for(branch):
    file = {"teacher": {"t": torch.ones(1)}, "student": {"s": torch.ones(1)}}
    found = unwrap(file, branch)
    assert (found.outer, list(found.state)) == (branch, [branch[0]])
    assert found.branches == ("teacher", "student")


def test_other_branches_are_left_to_the_family():
    assert unwrap({"model": STATE}, "momentum").outer == "model"


def test_what_is_no_tensor_is_left_out():
    found = unwrap({"state_dict": {**STATE, "author": "someone", "step": 3}})
    assert same(found.state, STATE)


def test_a_lone_tensor_does_not_hide_the_model():
    found = unwrap({"step": torch.tensor(3), "model": STATE})
    assert same(found.state, STATE)


@pytest.mark.parametrize(
    "wrapper",
    ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.model.", "module.module."],
)
def test_wrappers_go_in_any_order(wrapper):
    found = unwrap({"model": {wrapper + k: v for k, v in STATE.items()}})
    assert same(found.state, STATE)
    assert found.wrappers == wrapper


def test_only_the_start_of_a_key_is_a_wrapper():
    state = {"momentum_encoder.module.0.cls_token": torch.ones(1), "backbone.model.x": torch.ones(1)}
    assert same(unwrap(state).state, state)


@pytest.mark.parametrize(("wrapped", "stripped"), [(1, False), (2, False), (3, True), (4, True)])
def test_most_keys_must_have_the_wrapper(wrapped, stripped):
    state = {f"{'module.' if i < wrapped else ''}k{i}": torch.full((1,), float(i)) for i in range(4)}
    found = unwrap(state)
    assert found.wrappers == ("module." if stripped else "")
    assert [float(v) for v in found.state.values()] == [0, 1, 2, 3]


def test_the_same_tensor_twice_is_refused():
    state = {**{f"module.{k}": v for k, v in STATE.items()}, "cls_token": torch.ones(1)}
    with pytest.raises(UserError, match=r"file\.pth: has keys both with and without 'module\.'"):
        unwrap(state, where="file.pth")


@pytest.mark.parametrize("file", [{}, {"epoch": 3}, {"model": {}}, {"model": {"a": 1}}, {"optimizer": STATE}])
def test_a_file_without_a_model_is_refused(file):
    with pytest.raises(UserError, match=r"file\.pth: holds no dictionary of tensors under teacher, model"):
        unwrap(file, where="file.pth")
