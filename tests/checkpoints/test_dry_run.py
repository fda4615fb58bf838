"""Pickles that would cost more than they are: each is refused before torch makes anything of it."""

import io
import pickle
import struct
import zipfile

import pytest
import torch

from cmae_mm.checkpoints import dry_run
from cmae_mm.checkpoints.dry_run import DryRun, Refused, UnknownName
from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.errors import UserError

START, END = pickle.PROTO + b"\x02", pickle.STOP


def text(words):
    data = words.encode() if isinstance(words, str) else words
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def name(module, word):
    return pickle.GLOBAL + f"{module}\n{word}\n".encode()


def number(value):
    return pickle.BININT + struct.pack("<i", value)


def call(function, *arguments):
    return function + pickle.MARK + b"".join(arguments) + pickle.TUPLE + pickle.REDUCE


def put(i):
    return pickle.LONG_BINPUT + struct.pack("<I", i)


def get(i):
    return pickle.LONG_BINGET + struct.pack("<I", i)


def mapping(value):
    """{"x": value}."""
    return START + pickle.EMPTY_DICT + text("x") + value + pickle.SETITEM + END


ENCODE = name("_codecs", "encode")
ORDERED = name("collections", "OrderedDict")
BIG = pickle.MARK + number(7) * 1000
TOWER = pickle.EMPTY_TUPLE + b"".join(put(i) + get(i) + pickle.TUPLE2 for i in range(64))
FULL = pickle.EMPTY_DICT + pickle.MARK + b"".join(text(f"{i:04}") + pickle.NONE for i in range(2000)) + b"u"
LONG = pickle.LONG1 + b"\x0a"
COLLIDE = b"".join(
    LONG + (i * (2**61 - 1)).to_bytes(10, "little") + pickle.NONE + pickle.SETITEM for i in range(10_001)
)

BOMBS = {
    "bytes of any length": (call(name("builtins", "bytearray"), number(2**31 - 1)), "asks to load bytearray"),
    "the same in Python 2": (call(name("__builtin__", "bytearray"), number(9)), "asks to load bytearray"),
    "encoded again and again": (
        call(ENCODE, call(ENCODE, text("a"), text("hex")), text("hex")),
        "encodes something else than text",
    ),
    "encoded from memory": (
        call(ENCODE, text("a"), text("utf-8")) + put(0) + b"0" + call(ENCODE, get(0), text("hex")),
        "an instruction POP",
    ),
    "memory of any size": (call(name("torch", "Tensor"), number(10**9)), "asks to load torch.Tensor"),
    "a storage that is called": (
        call(name("torch.storage", "UntypedStorage"), number(10**9)),
        "it calls 'torch.storage.UntypedStorage'",
    ),
    "counting": (
        call(name("collections", "Counter"), text("aab")),
        "counts something else than a dictionary",
    ),
    "a method of torch": (call(name("torch._tensor", "_rebuild_from_type_v2")), "asks to load torch._tensor"),
    "the same dictionary many times": (
        pickle.EMPTY_LIST + FULL + put(1) + b"a" + (call(ORDERED, get(1)) + b"a") * 3000,
        "copies more than",
    ),
    "a state many times": (
        pickle.EMPTY_LIST + FULL + put(1) + b"a" + (call(ORDERED) + get(1) + b"ba") * 3000,
        "copies more than",
    ),
    "a shape many times": (
        BIG + pickle.TUPLE + put(1) + b"0",
        "an instruction POP",
    ),
    "letters": (
        pickle.EMPTY_LIST
        + text("a" * 5000)
        + put(1)
        + b"a"
        + (call(name("builtins", "list"), get(1)) + b"a") * 900,
        "copies more than",
    ),
    "a tower of tuples": (TOWER, "nests tuples without end"),
    "a key that takes long to hash": (
        pickle.EMPTY_DICT + BIG + pickle.TUPLE + pickle.NONE + pickle.SETITEM,
        "a key of more than",
    ),
    "a set of such keys": (
        pickle.EMPTY_LIST
        + BIG
        + pickle.TUPLE
        + b"a"
        + put(1)
        + b"\x85"
        + put(2)
        + call(name("builtins", "set"), get(1)),
        "makes keys of tuples",
    ),
    "a storage named so": (BIG + pickle.TUPLE + pickle.BINPERSID, "names a storage in a way"),
    "keys that collide": (pickle.EMPTY_DICT + COLLIDE, "keys that are no text"),
    "values put into a number": (number(1) + number(2) + b"a", "something that holds none"),
    "a state for a tensor": (number(1) + pickle.EMPTY_TUPLE + b"b", "gives a state to something"),
    "arguments that are no tuple": (ORDERED + pickle.EMPTY_LIST + pickle.REDUCE, "calls something in a way"),
    "a result that is called": (call(call(ORDERED)), "it calls 'collections.OrderedDict'"),
    "another instruction": (pickle.STACK_GLOBAL, "an instruction STACK_GLOBAL"),
    "another protocol inside": (pickle.PROTO + b"\x04", "protocol 4"),
    "nothing to take": (pickle.TUPLE3, "more values than there are|not a readable"),
    "nothing marked": (pickle.TUPLE, "not a readable"),
    "nothing remembered": (get(9), "not a readable"),
    "no end": (text("a" * 100)[:-50], "not a readable"),
    "a name that is none": (name("os\x00", "é\x1b[2J"), "not a readable|asks to load"),
}


@pytest.fixture(params=["zip", "before torch 1.6"])
def pack(tmp_path, request):
    """Put a pickle where a checkpoint has its own."""

    def make(data):
        path = tmp_path / "x.pth"
        torch.save({"w": 1}, path, _use_new_zipfile_serialization=request.param == "zip")
        if request.param == "zip":
            with zipfile.ZipFile(path) as old:
                parts = [(entry.filename, old.read(entry)) for entry in old.infolist()]
            with zipfile.ZipFile(path, "w") as new:
                for part, content in parts:
                    new.writestr(part, data if part.endswith("data.pkl") else content)
            return path
        whole = path.read_bytes()
        ends = [i for i in range(len(whole)) if whole[i : i + 2] == b".\x80"]  # of the pickles in a row
        path.write_bytes(whole[: ends[2] + 1] + data + whole[ends[3] + 1 :])
        return path

    return make


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_before_torch_sees_them(bomb, pack, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("torch.load was reached"))
    value, says = BOMBS[bomb]
    with pytest.raises(UserError, match=says) as caught:
        load_checkpoint(pack(mapping(value)))
    assert str(caught.value).isprintable()


def test_the_frame_of_these_tests_is_a_checkpoint(pack):
    assert load_checkpoint(pack(mapping(text("a")))) == {"x": "a"}
    assert load_checkpoint(pack(mapping(call(ENCODE, text("aé"), text("latin1"))))) == {"x": b"a\xe9"}
    assert load_checkpoint(pack(mapping(call(ORDERED)))) == {"x": {}}
    pairs = pickle.EMPTY_LIST + (pickle.EMPTY_LIST + text("a") + b"a" + number(3) + b"a") + b"a"
    assert load_checkpoint(pack(mapping(call(ORDERED, pairs)))) == {"x": {"a": 3}}  # as Python 2 wrote them
    tuples = pickle.EMPTY_DICT + number(1) + number(2) + pickle.TUPLE2 + text("a") + pickle.SETITEM
    assert load_checkpoint(pack(mapping(tuples))) == {"x": {(1, 2): "a"}}


def test_steps_are_counted_over_all_pickles_of_a_file(monkeypatch):
    monkeypatch.setattr(dry_run, "MAX_STEPS", 10)
    run = DryRun()
    for _ in range(2):
        run.follow(io.BytesIO(START + pickle.NONE * 3 + END))
    with pytest.raises(Refused, match="more than 10 instructions"):
        run.follow(io.BytesIO(START + END))


def test_many_instructions_end_soon():
    """A byte of the file makes a list or a set of some hundred bytes in memory."""
    with pytest.raises(Refused, match="instructions"):
        DryRun().follow(io.BytesIO(START + pickle.EMPTY_SET * (dry_run.MAX_STEPS + 1) + END))


def test_names_are_collected_as_torch_translates_them():
    run = DryRun()
    run.follow(io.BytesIO(START + name("__builtin__", "getattr") + name("argparse", "Namespace") + END))
    assert run.names == {"builtins.getattr", "argparse.Namespace"}
    with pytest.raises(UnknownName, match=r"^posix\.system$"):
        DryRun().follow(io.BytesIO(START + name("posix", "system") + END))


def test_what_a_file_may_not_hide(pack):
    """Attributes of a dictionary could stand for its methods: an empty one for ``values()``."""
    w = (
        call(ORDERED)
        + pickle.EMPTY_DICT
        + text("values")
        + ORDERED
        + b"s"
        + text("keys")
        + pickle.NONE
        + b"sb"
    )
    loaded = load_checkpoint(pack(mapping(w)))["x"]
    assert not vars(loaded)
    assert list(loaded.values()) == []
