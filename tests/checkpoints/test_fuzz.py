"""Whatever a file holds, a reader returns something whole or raises `UserError`: no other exception, no hang.

Files are real ones with bits flipped, parts cut, doubled or replaced; pickles of random instructions; headers of random
values; state dicts that are almost those of a family. The same examples are drawn every time; ``make test-slow`` draws
fifty times as many.
"""

import json
import pickle
import struct
import zipfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from fuzzing import fuzz, survives
from hypothesis import strategies as st
from safetensors.torch import save_file

from cmae_mm.checkpoints import BackboneHeader, load_backbone, save_backbone
from cmae_mm.checkpoints.backbone_file import expected_keys, expected_shape
from cmae_mm.checkpoints.geometry import Misfit
from cmae_mm.checkpoints.importing import import_checkpoint
from cmae_mm.checkpoints.inspecting import inspect_file
from cmae_mm.checkpoints.recognise import closest_family, extract_family, recognise
from cmae_mm.checkpoints.resize import resize_pos_embed, resize_rel_pos_table
from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.checkpoints.sources import FAMILIES
from cmae_mm.checkpoints.unwrap import unwrap

HEADER = BackboneHeader(
    method="test", width=4, depth=1, heads=1, hidden=4, patch=2, image_size=4, ln_eps=1e-6
)


def vit(header=HEADER):
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.randn(expected_shape(key, header), generator=generator)
        for key in sorted(expected_keys(header))
    }


def written(write, name):
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


@cache
def originals():
    """Small whole files, by the suffix that they are read under."""
    training = {
        "state_dict": vit(),
        "meta": {"epoch": 1, "config": "x = 1"},
        "message_hub": {"log_scalars": {}, "runtime_info": {"lr": 1e-3}},
        "optimizer": {
            "state": {0: {"step": torch.tensor(1.0)}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
    }
    return {
        "new.pth": written(lambda p: torch.save(training, p), "x.pth"),
        "old.pth": written(lambda p: torch.save(training, p, _use_new_zipfile_serialization=False), "x.pth"),
        "plain.safetensors": written(lambda p: save_file(vit(), str(p)), "x.safetensors"),
        "backbone.safetensors": written(lambda p: save_backbone(p, vit(), HEADER), "x.safetensors"),
    }


WHOLE_NUMBERS = [0, 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]
PLACE = st.floats(0, 1, exclude_max=True)
CHANGE = st.one_of(
    st.tuples(st.just("flip"), PLACE, st.integers(0, 7)),
    st.tuples(st.just("cut"), PLACE, st.integers(1, 200)),
    st.tuples(st.just("end"), PLACE, st.just(0)),
    st.tuples(st.just("put"), PLACE, st.binary(min_size=1, max_size=9)),
    st.tuples(st.just("add"), PLACE, st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("twice"), PLACE, st.integers(1, 300)),
    st.tuples(st.just("number"), PLACE, st.sampled_from(WHOLE_NUMBERS)),
)


def mutate(data, changes):
    for kind, place, value in changes:
        at = int(place * len(data))
        if kind == "flip":
            data = data[:at] + bytes([data[at] ^ 1 << value]) + data[at + 1 :] if data else data
        elif kind in ("cut", "twice"):
            data = data[:at] + data[at : at + value] * (2 if kind == "twice" else 0) + data[at + value :]
        elif kind == "end":
            data = data[:at]
        elif kind in ("put", "number"):
            value = struct.pack("<Q", value) if kind == "number" else value
            data = data[:at] + value + data[at + len(value) :]
        else:
            data = data[:at] + value + data[at:]
    return data


FILES = st.tuples(
    st.sampled_from(["new.pth", "old.pth", "plain.safetensors", "backbone.safetensors"]),
    st.lists(CHANGE, min_size=1, max_size=6),
)


@fuzz(FILES, 250)
def test_damaged_files(case):
    """Bits flipped, parts cut, doubled, replaced: in the archive, its directory, the pickle, the header, the values."""
    name, changes = case
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(mutate(originals()[name], changes))
        if path.suffix == ".pth":
            loaded = survives(load_checkpoint, path)
            assert loaded is None or isinstance(loaded, dict)
        found = survives(load_backbone, path)
        if found is not None:
            state, header = found
            assert set(state) == expected_keys(header)
        survives(inspect_file, path)
        survives(import_checkpoint, path, source="timm-vit", normalization="half", heads=1)


def packed(data, path):
    """A checkpoint with this pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", data)
        archive.writestr("x/byteorder", "little")
        archive.writestr("x/data/0", b"\0" * 16)
        archive.writestr("x/version", "3")


def text(words):
    return pickle.BINUNICODE + struct.pack("<I", len(words)) + words


NAMES = [
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter", "torch Size", "torch device", "torch float32",
    "torch FloatStorage", "torch.storage UntypedStorage", "torch.storage TypedStorage", "_codecs encode",
    "builtins set",
    "builtins complex", "builtins list", "builtins dict", "builtins getattr", "argparse Namespace", "numpy dtype",
    "numpy ndarray", "numpy._core.multiarray _reconstruct", "collections defaultdict", "yacs.config CfgNode",
    "torch.nn.parameter Parameter", "mmengine.logging.history_buffer HistoryBuffer", "pathlib PosixPath",
    "torch Tensor",
]  # fmt: skip
STORAGE = pickle.MARK + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + b"K\x04tQ"
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n("
    + STORAGE
    + b"K\x00K\x04\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
)
INSTRUCTION = st.one_of(
    st.sampled_from([bytes([b]) for b in (*b"(t)]}NRbQsaue", 0x81, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8F)]),
    st.sampled_from(NAMES).map(lambda n: b"c" + n.replace(" ", "\n").encode() + b"\n"),
    st.sampled_from([STORAGE, TENSOR]),
    st.sampled_from([b"state_dict", b"storage", b"latin1", b"0", b"cpu", b"a.b", b"", b"hex"]).map(text),
    st.integers(-3, 300).map(lambda i: b"J" + struct.pack("<i", i)),
    st.binary(max_size=9).map(lambda data: b"\x8a" + bytes([len(data)]) + data),
    st.floats().map(lambda f: b"G" + struct.pack(">d", f)),
    st.integers(0, 5).map(lambda i: b"q" + bytes([i])),
    st.integers(0, 5).map(lambda i: b"h" + bytes([i])),
)  # fmt: skip


@fuzz(st.lists(INSTRUCTION, max_size=25), 400)
def test_random_pickles(case):
    """Any instructions in any order, of those that torch follows, with the names that are on the list."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.pth"
        packed(b"\x80\x02}" + text(b"x") + b"".join(case) + b"s.", path)
        survives(load_checkpoint, path)
        survives(inspect_file, path)


PLAIN = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
        st.sampled_from([0, 1, 2, 4, 2**31, 10**30, -1, 1e308, "rgb", "bgr", "norm", "none", "class_row", "swiglu"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip
FIELDS = st.dictionaries(st.sampled_from([*vars(HEADER), "unknown", ""]), PLAIN, max_size=4)


@fuzz(st.one_of(FIELDS, st.text(max_size=60), PLAIN), 400)
def test_headers(case):
    """Fields of any value, and text that is no header at all."""
    text = (
        case
        if isinstance(case, str)
        else json.dumps({**vars(HEADER), **case} if isinstance(case, dict) else case)
    )
    header = survives(BackboneHeader.from_json, text, "x")
    if header is not None:
        again = BackboneHeader.from_json(header.to_json(), "x")
        assert again == header
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        save_file(vit(), str(path), metadata={"cmae_mm": text.encode(errors="replace").decode()})
        found = survives(load_backbone, path)
        assert found is None or {k: tuple(v.shape) for k, v in found[0].items()} == {
            k: expected_shape(k, found[1]) for k in expected_keys(found[1])
        }
        survives(inspect_file, path)


TIMM = tuple(vit())
STYLES = {
    "timm": (),
    "mm": (
        ("blocks", "layers"),
        ("norm1", "ln1"),
        ("mlp.fc1", "ffn.layers.0.0"),
        ("mlp.fc2", "ffn.layers.1"),
    ),
    "hf": (("blocks", "encoder.layer"), ("patch_embed.proj", "embeddings.patch_embeddings.projection")),
}
WORDS = [
    "", "backbone.", "module.", "model.", "encoder.", "teacher.", "head.weight", "mask_token", "decoder_embed.weight",
    "blocks.0.ls1.gamma", "blocks.99999999.norm1.weight", "blocks.0.attn.relative_position_bias_table", "reg_token",
    "rel_pos_bias.relative_position_bias_table", "blocks.0.attn.q_bias", "blocks.0.gamma_1", "register_tokens",
    "embeddings.cls_token", "blocks.-1.x", "pos_embed", "norm.weight", "fc_norm.bias", "target_backbone.cls_token",
    "a" * 600, "\x1b[2J\n", "blocks.\u0663.norm1.weight",
]  # fmt: skip
SHAPE = st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 12, 16, 25, 732]), max_size=5)
TYPES = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.uint16,
]
VALUE = st.one_of(
    st.builds(lambda shape, kind: torch.zeros(shape, dtype=kind), SHAPE, st.sampled_from(TYPES)),
    st.just(torch.zeros(1).expand(3, 4)),
    st.just(torch.full((4,), float("nan"))),
    st.sampled_from([None, 3, "x", [1], {"weight": torch.ones(2)}]),
)
STATE = st.fixed_dictionaries(
    {
        "style": st.sampled_from(list(STYLES)),
        "prefix": st.sampled_from(
            ["", "backbone.", "module.", "module.backbone.", "model.", "encoder.", "vit."]
        ),
        "outer": st.sampled_from(["", "model", "state_dict", "teacher", "student", "nothing"]),
        "drop": st.lists(st.sampled_from(TIMM), max_size=2),
        "change": st.dictionaries(st.sampled_from(TIMM), VALUE, max_size=2),
        "add": st.dictionaries(
            st.one_of(st.sampled_from(WORDS), st.text(max_size=9), st.integers()), VALUE, max_size=3
        ),
        "beside": st.dictionaries(
            st.sampled_from(["epoch", "teacher", "args", "target_encoder"]), VALUE, max_size=2
        ),
    }
)


def build(case):
    """Almost a checkpoint of some family."""
    state = {key: value for key, value in vit().items() if key not in case["drop"]}
    state |= {key: value for key, value in case["change"].items() if key in state}
    for old, new in STYLES[case["style"]]:
        state = {key.replace(old, new): value for key, value in state.items()}
    state = {case["prefix"] + key: value for key, value in state.items()} | case["add"]
    return ({case["outer"]: state} if case["outer"] else state) | case["beside"]


@fuzz(STATE, 120)
def test_key_mappers(case):
    """Keys and shapes that are almost those of a family; families say `Misfit`, which the importer turns into words."""
    loaded = build(case)
    names = survives(recognise, loaded)
    assert names is None or set(names) <= set(FAMILIES)
    unwrapped = survives(unwrap, loaded)
    if unwrapped is None:
        return
    assert all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in unwrapped.state.items())
    assert closest_family(unwrapped.state)[1]
    for family in FAMILIES.values():
        found = survives(extract_family, unwrapped.state, family, refusal=Misfit)
        if found is not None:
            header = found.architecture
            assert {k: tuple(v.shape) for k, v in found.state.items()} == {
                k: expected_shape(k, header) for k in expected_keys(header)
            }


WHOLE = {"style": "timm", "prefix": "", "outer": "", "drop": [], "change": {}, "add": {}, "beside": {}}
EMPTY_TABLE = {**WHOLE, "change": {"pos_embed": torch.zeros(3, 25, 0)}}  # once had no maximum
FLAT_TABLE = {**WHOLE, "change": {"pos_embed": torch.zeros(4)}}
SOURCES = st.sampled_from(["auto", *FAMILIES])


@fuzz(
    st.tuples(STATE, SOURCES, st.sampled_from(["new", "old", "safetensors"])),
    60,
    (EMPTY_TABLE, "auto", "old"),
    (FLAT_TABLE, "timm-vit", "safetensors"),
    (WHOLE, "timm-vit", "new"),
)
def test_importing(case):
    """The same through files, to the end."""
    content, source, kind = case
    loaded = build(content)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"x.{kind}"
        if kind == "safetensors":
            tensors = {str(k)[:400]: v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
            save_file({k: v.contiguous() for k, v in tensors.items()}, str(path))
        else:
            torch.save(loaded, path, _use_new_zipfile_serialization=kind == "new")
        done = survives(import_checkpoint, path, Path(folder) / "out", source, heads=1, normalization="half")
        if done is not None:
            state, header = load_backbone(Path(folder) / "out")
            assert header == done.header
            assert all(torch.equal(state[key], value) for key, value in done.state.items())
        survives(inspect_file, path)


GRID = st.tuples(st.integers(1, 6), st.integers(1, 6))
# These once ended in an IndexError or a RuntimeError.
ODD_TABLES = [
    (shape, (1, 1), prefix, None, False)
    for shape, prefix in (([], 0), ([1], 0), ([3, 4, 0], 0), ([1, 1, 1], 1), ([1, 0, 3], 0))
]
ODD_RELATIVE_TABLES = [([], (1, 1), (1, 1), 0), ([1], (1, 1), (2, 2), 0), ([4], (1, 1), (1, 2), 3)]


@fuzz(st.tuples(SHAPE, GRID, st.integers(0, 3), st.one_of(st.none(), GRID), st.booleans()), 150, *ODD_TABLES)
def test_resizing_positions(case):
    """A table of any shape: resized, or refused with the documented `ValueError`."""
    shape, grid, prefix, source, antialias = case
    resized = survives(
        resize_pos_embed, torch.ones(shape), grid, prefix, source, antialias, refusal=ValueError
    )
    assert resized is None or tuple(resized.shape) == (1, prefix + grid[0] * grid[1], shape[2])


@fuzz(st.tuples(SHAPE, GRID, GRID, st.integers(0, 3)), 150, *ODD_RELATIVE_TABLES)
def test_resizing_relative_tables(case):
    """The same for tables of relative positions."""
    shape, old, new, extra = case
    resized = survives(resize_rel_pos_table, torch.ones(shape), old, new, extra, refusal=ValueError)
    rows = (2 * new[0] - 1) * (2 * new[1] - 1) + extra
    assert resized is None or tuple(resized.shape) == (rows, shape[1])
