"""Nothing in a checkpoint is executed; what known programs leave in theirs does not stand in the way."""

import argparse
import os
import pathlib

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.errors import UserError

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3)}


def history():
    buffer = HistoryBuffer()
    for value in (1.0, 2.0):
        buffer.update(value, 2)
    return buffer


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize(
    "extra",
    [
        None,
        history(),
        np.float64(3.5),
        np.int64(3),
        np.arange(4),
        argparse.Namespace(lr=0.1, path=pathlib.PosixPath("/x")),
        {"nested": [history(), np.float32(1)]},
        ConfigDict(a=dict(b=1)),
    ],
    ids=lambda e: type(e).__name__,
)
def test_what_training_programs_leave(tmp_path, extra, legacy):
    path = tmp_path / "x.pth"
    torch.save(
        {"state_dict": WEIGHTS, "epoch": 3, "extra": extra}, path, _use_new_zipfile_serialization=not legacy
    )
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["state_dict"]["a.weight"], WEIGHTS["a.weight"])
    assert loaded["epoch"] == 3


class Hostile:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("kind", ["eval", "exec", "os.system", "getattr", "import", "namespace"])
def test_hostile_pickles_are_refused_and_not_executed(tmp_path, kind, legacy):
    mark, path = tmp_path / "executed", tmp_path / "bad.pth"
    code = f"open({str(mark)!r}, 'w').close()"
    payload = {
        "eval": Hostile(eval, code),
        "exec": Hostile(exec, code),
        "os.system": Hostile(os.system, f"touch {mark}"),
        "getattr": Hostile(getattr, Hostile(__import__, "os"), "system"),
        "import": Hostile(__import__, "os"),
        "namespace": argparse.Namespace(x=Hostile(os.system, f"touch {mark}")),
    }[kind]
    torch.save({"state_dict": WEIGHTS, "x": payload}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"bad\.pth: ") as caught:
        load_checkpoint(path)
    assert not mark.exists()
    assert "\n" not in str(caught.value)
    torch.load(path, weights_only=False)  # the payload is real
    assert mark.exists() or kind in ("getattr", "import")


def test_refusal_names_the_global(tmp_path):
    torch.save({"x": Hostile(os.system, "true")}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=r"refused, it asks to load posix\.system"):
        load_checkpoint(tmp_path / "bad.pth")


def test_stand_ins_are_inert(tmp_path):
    torch.save({"args": argparse.Namespace(lr=0.1)}, tmp_path / "x.pth")
    args = load_checkpoint(tmp_path / "x.pth")["args"]
    assert not isinstance(args, argparse.Namespace)
    assert not vars(args)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "no such checkpoint file; check the path"),
        (b"", "not a readable checkpoint"),
        (b"garbage, not a checkpoint", "not a readable checkpoint.*damaged or cut short"),
        ("cut", "not a readable checkpoint.*damaged or cut short"),
        ([1, 2], "holds a list, not a dictionary"),
    ],
)
def test_unreadable_files_are_named(tmp_path, content, what):
    path = tmp_path / "x.pth"
    if content == "cut":
        torch.save({"state_dict": {"w": torch.zeros(1000)}}, path)
        path.write_bytes(path.read_bytes()[:-700])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=what) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
