"""Nothing in a checkpoint is executed; what known programs leave in theirs does not stand in the way."""

import argparse
import collections
import fractions
import os
import pathlib
import pickle
import sys
import types
import typing
import zipfile

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim import CosineAnnealingLR, LinearLR, MultiStepLR, PolyLR

from cmae_mm.checkpoints import archive
from cmae_mm.checkpoints.inert import known_names, stand_ins
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
        Config(dict(a=1)),
        collections.defaultdict(list, a=[1]),
        [pathlib.PureWindowsPath("C:/x"), typing.Any, dict, list, int, slice(1, 2)],
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


@pytest.fixture
def foreign(monkeypatch):
    """Make classes as libraries that are not installed have them; they are gone when the file is read."""

    def make(where, base):
        module, name = where.rsplit(".", 1)
        kind = type(name, (base,), {"__module__": module})
        monkeypatch.setitem(sys.modules, module.split(".")[0], types.SimpleNamespace())
        monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**{name: kind}))
        return kind

    yield make
    monkeypatch.undo()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize(
    "where", ["yacs.config.CfgNode", "mmcv.utils.config.ConfigDict", "addict.addict.Dict"]
)
def test_foreign_dictionaries_keep_their_entries(foreign, monkeypatch, tmp_path, where, legacy):
    node = foreign(where, dict)(a=1)
    node.frozen = True
    torch.save({"w": WEIGHTS, "cfg": node}, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    monkeypatch.undo()
    loaded = load_checkpoint(tmp_path / "x.pth")
    assert loaded["cfg"] == {"a": 1}
    assert torch.equal(loaded["w"]["a.weight"], WEIGHTS["a.weight"])


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
def test_foreign_objects_become_shells(foreign, monkeypatch, tmp_path, legacy):
    content = {"w": WEIGHTS}
    for where in (
        "omegaconf.dictconfig.DictConfig",
        "omegaconf.nodes.IntegerNode",
        "omegaconf.base.Metadata",
    ):
        content[where] = foreign(where, object)()
        content[where].value = 3
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    monkeypatch.undo()
    loaded = load_checkpoint(tmp_path / "x.pth")
    assert not vars(loaded["omegaconf.nodes.IntegerNode"])
    assert loaded.keys() == content.keys()


def test_both_spellings_of_numpy(tmp_path):
    torch.save({"w": WEIGHTS, "a": np.arange(3), "s": np.float64(2)}, tmp_path / "new.pth")
    rewrite(tmp_path / "new.pth", tmp_path / "old.pth", lambda p: p.replace(b"numpy._core.", b"numpy.core."))
    assert load_checkpoint(tmp_path / "old.pth").keys() == {"w", "a", "s"}


def rewrite(source, target, change, **how):
    """The archive with another pickle, and another way of packing."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **how) as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry.filename, change(data) if entry.filename.endswith("data.pkl") else data)


def test_nothing_on_the_list_is_bound_to_something_real():
    harmless = {dict, collections.OrderedDict, list}
    names = [*known_names(), "numpy.dtypes.Float64DType"]
    for stand_in, name in stand_ins(names):
        made = stand_in(print, "x") if stand_in not in harmless else stand_in()
        assert type(made).__module__ in ("cmae_mm.checkpoints.inert", "collections", "builtins"), name
        assert not callable(made)
        assert not made or not vars(made)


class Hostile:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("kind", ["eval", "exec", "os.system", "getattr", "import", "namespace"])
def test_hostile_pickles_are_refused_and_not_executed(tmp_path, kind, legacy, monkeypatch):
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
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)  # set wherever a config was read
    torch.load(path, weights_only=False)  # the payload is real
    assert mark.exists() or kind in ("getattr", "import")


def test_refusal_names_the_global(tmp_path):
    torch.save({"x": Hostile(os.system, "true")}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=r"refused, it asks to load posix\.system"):
        load_checkpoint(tmp_path / "bad.pth")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (fractions.Fraction(1, 2), "fractions.Fraction"),
        (collections.deque([1]), "collections.deque"),
        (Hostile(eval, "1"), "eval"),
        (Hostile(os.system, "true"), "posix.system"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
    ],
    ids=lambda e: e if isinstance(e, str) else "",
)
def test_any_other_name_is_refused_by_name(tmp_path, thing, name, legacy):
    torch.save({"w": WEIGHTS, "x": thing}, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        UserError, match=rf"x\.pth: refused, it asks to load {name}, which weights do not need"
    ):
        load_checkpoint(tmp_path / "x.pth")


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


@pytest.fixture
def untouched(monkeypatch):
    """Fails if torch reads anything: the file must be refused by its directory."""
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("torch.load was reached"))


def test_compressed_archives_are_refused_before_they_are_unpacked(tmp_path, untouched):
    torch.save({"w": torch.zeros(1 << 20)}, tmp_path / "x.pth")
    rewrite(tmp_path / "x.pth", tmp_path / "bomb.pth", bytes, compression=zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.pth").stat().st_size < 10_000
    with pytest.raises(UserError, match=r"bomb\.pth: refused, its entry .* is compressed"):
        load_checkpoint(tmp_path / "bomb.pth")


def test_overlapping_entries_are_refused(tmp_path, untouched):
    """Many names for the same bytes: the directory at the end is repeated with other names."""
    torch.save({"w": torch.zeros(1000)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth", "a") as archive:
        big = archive.getinfo("x/data/0")
        for i in range(3):
            twin = zipfile.ZipInfo(f"x/data/{i + 1}")
            for part in ("CRC", "compress_size", "file_size", "header_offset"):
                setattr(twin, part, getattr(big, part))
            archive.filelist.append(twin)
        archive._didModify = True
    with pytest.raises(UserError, match="entries overlap"):
        load_checkpoint(tmp_path / "x.pth")


def test_a_huge_pickle_is_refused(tmp_path, untouched, monkeypatch):
    monkeypatch.setattr(archive, "MAX_PICKLE", 1 << 20)
    torch.save({"x": "a" * (1 << 21)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="2 MiB beside its tensors"):
        load_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
def test_tensors_that_are_larger_than_the_file(tmp_path, legacy):
    path = tmp_path / "x.pth"
    wide = torch.zeros(1).expand(10**6, 10**6)  # 4 TB in four bytes
    torch.save({"a": [{"b": (wide,)}]}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        UserError, match=r"more than 8 times the file: one has the shape \(1000000, 1000000\)"
    ):
        load_checkpoint(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("lie", ["storage", "tensor"])
def test_sizes_that_do_not_fit_the_file(tmp_path, lie, legacy):
    """The pickle of a tensor of 1000 numbers says 2**30: for the storage, or for the shape."""
    torch.save({"w": torch.zeros(1000)}, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    true, false = b"M\xe8\x03", b"J" + (1 << 30).to_bytes(4, "little")

    def change(data):
        parts = data.split(true)
        at = 1 if lie == "storage" else 2
        return true.join(parts[:at]) + false + true.join(parts[at:])

    if legacy:
        (tmp_path / "bad.pth").write_bytes(change((tmp_path / "x.pth").read_bytes()))
    else:
        rewrite(tmp_path / "x.pth", tmp_path / "bad.pth", change)
    with pytest.raises(UserError, match=r"bad\.pth: (not a readable checkpoint|refused)"):
        load_checkpoint(tmp_path / "bad.pth")


def test_weights_that_share_memory_are_read(tmp_path):
    shared = torch.arange(1000.0)
    torch.save({f"tied.{i}": shared.view(10, 100) for i in range(4)}, tmp_path / "x.pth")
    assert len(load_checkpoint(tmp_path / "x.pth")) == 4


@pytest.mark.parametrize(
    "odd",
    [
        torch.sparse_coo_tensor([[0], [0]], [1.0], (10**6, 10**6)),
        torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        torch.zeros(3, device="meta"),
    ],
    ids=["sparse", "quantised", "meta"],
)
def test_only_plain_arrays(tmp_path, odd):
    torch.save({"w": odd}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="a tensor that is no plain array"):
        load_checkpoint(tmp_path / "x.pth")


def test_lists_within_lists(tmp_path):
    """A million million leaves on paper, forty lists in memory; and nesting deeper than Python recurses."""
    bush = [torch.ones(1)]
    for _ in range(40):
        bush = [bush, bush]
    torch.save({"x": bush}, tmp_path / "bush.pth")
    assert load_checkpoint(tmp_path / "bush.pth").keys() == {"x"}
    torch.save({"w": torch.ones(1)}, tmp_path / "x.pth")
    tower = pickle.PROTO + b"\x02" + b"}X\x01\x00\x00\x00x" + b"]" * 5000 + b"a" * 4999 + b"s."
    rewrite(tmp_path / "x.pth", tmp_path / "tower.pth", lambda _: tower)
    assert load_checkpoint(tmp_path / "tower.pth").keys() == {"x"}


def test_schedules_of_learning_rates(tmp_path):
    """mmengine keeps milestones as a Counter: without it no run of a detector could be resumed."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    schedules = [
        MultiStepLR(optimizer, milestones=[163889, 177546], gamma=0.1),
        LinearLR(optimizer, start_factor=0.001, end=250),
        CosineAnnealingLR(optimizer, T_max=10),
        PolyLR(optimizer, power=1.0),
    ]
    states = [schedule.state_dict() for schedule in schedules]
    torch.save({"state_dict": {}, "param_schedulers": states}, tmp_path / "x.pth")
    found = load_checkpoint(tmp_path / "x.pth")["param_schedulers"]
    assert found == states
    assert found[0]["milestones"] == collections.Counter({163889: 1, 177546: 1})
    schedules[0].load_state_dict(found[0])
