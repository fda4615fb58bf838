"""Headers of safetensors files that lie, through each reader of such files."""

import json

import pytest
import torch
from safetensors.torch import save_file

from cmae_mm.checkpoints import load_backbone
from cmae_mm.checkpoints.importing import import_checkpoint
from cmae_mm.checkpoints.inspecting import inspect_file
from cmae_mm.checkpoints.plain_json import parse_json
from cmae_mm.checkpoints.safetensors_file import MAX_HEADER, open_safetensors
from cmae_mm.errors import UserError

READERS = {"load": load_backbone, "import": import_checkpoint, "inspect": inspect_file}


def entry(dtype="F32", shape=(2,), start=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def file_of(header, data=b"\0" * 8, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


TWICE = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}'
LIES = {
    "length beyond the file": file_of({"w": entry()}, length=10**6),
    "length of all bits": file_of({"w": entry()}, length=2**64 - 1),
    "length 0": file_of({"w": entry()}, length=0),
    "length in the middle": file_of({"w": entry()}, length=20),
    "no header": b"{" * 7,
    "a long header": file_of(b"{" + b" " * (MAX_HEADER + 1) + b"}"),
    "not JSON": file_of(b"{not json}"),
    "not UTF-8": file_of(b'{"\xff\xfe": 1}'),
    "a list": file_of([1, 2]),
    "deep": file_of(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a number of many digits": file_of(b'{"w":' + b"9" * 100_000 + b"}"),
    "names twice": file_of(TWICE),
    "a long name": file_of({"w" * 5000: entry()}),
    "many axes": file_of({"w": entry(shape=[1] * 5000 + [2])}),
    "NaN": file_of(b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'),
    "infinite": file_of(b'{"w":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}}'),
    "a fraction": file_of({"w": entry(shape=[2.5])}),
    "below zero": file_of({"w": entry(shape=[-2])}),
    "absurd shape": file_of({"w": entry(shape=[2**62, 2**62])}),
    "absurd shape without values": file_of({"w": entry(shape=[2**62, 2**62, 0], end=0)}, b""),
    "shape larger than the values": file_of({"w": entry(shape=[4])}),
    "another dtype": file_of({"w": entry(dtype="F64")}),
    "no dtype": file_of({"w": {"shape": [2], "data_offsets": [0, 8]}}),
    "unknown dtype": file_of({"w": entry(dtype="F31")}),
    "overlapping": file_of({"w": entry(), "v": entry(start=4, end=12)}, b"\0" * 12),
    "the same place": file_of({"w": entry(), "v": entry()}),
    "a hole": file_of({"w": entry(start=8, end=16)}, b"\0" * 16),
    "beyond the end": file_of({"w": entry(shape=[4], end=16)}),
    "backwards": file_of({"w": entry(start=8, end=0)}),
    "more data": file_of({"w": entry()}, b"\0" * 64),
    "metadata that is no text": file_of({"w": entry(), "__metadata__": {"cmae_mm": {"a": 1}}}),
    "metadata that is a list": file_of({"w": entry(), "__metadata__": ["cmae_mm"]}),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("lie", LIES)
def test_lies(reader, lie, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(LIES[lie])
    with pytest.raises(UserError, match=r"x\.safetensors") as caught:
        READERS[reader](path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def header_file(tmp_path, text):
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.zeros(2)}, str(path), metadata={"cmae_mm": text})
    return path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"method": "a", "method": "b"}', "the header is not JSON .a name is there twice"),
        ('{"method": NaN}', "NaN is no number"),
        ('{"method": ' + "[" * 10**5 + "]" * 10**5 + "}", "nests too deep"),
        ('{"method": ' + "9" * 10**5 + "}", "the header is not JSON"),
        ('{"method": "' + "a" * (1 << 21) + '"}', "characters, which none has"),
        ("\ud7ff", "the header is not JSON"),
        ("[]", "not a JSON object"),
        ('"x"', "not a JSON object"),
        ("", "the header is not JSON"),
    ],
)
def test_headers_of_backbone_files(tmp_path, text, says):
    with pytest.raises(UserError, match=says):
        load_backbone(header_file(tmp_path, text))


@pytest.mark.parametrize(
    "dtype", ["F8_E4M3", "F8_E5M2", "I64", "U8", "BOOL", "U16", "C64", "F4", "F6_E2M3", "F8_E8M0"]
)
def test_types_of_other_programs(tmp_path, dtype):
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_of({"w": entry(dtype=dtype, shape=[0], end=0)}, b""))
    with pytest.raises(UserError):
        import_checkpoint(path)


def test_faults_while_the_file_is_open_are_told(tmp_path):
    save_file({"w": torch.zeros(2)}, str(tmp_path / "x.safetensors"))
    with (
        pytest.raises(UserError, match=r"not a readable safetensors file .*; do that"),
        open_safetensors(tmp_path / "x.safetensors", "do that") as handle,
    ):
        handle.get_tensor("v")
    with pytest.raises(UserError, match="not a readable safetensors file"), open_safetensors(tmp_path, "x"):
        pass


@pytest.mark.parametrize("text", [b"\xff", "1e999999", "{", "Infinity", '{"a":1,"a":1}', "[" * 10**5])
def test_what_is_no_json(text):
    if text == "1e999999":
        assert parse_json(text) == float("inf")  # as any reader; fields are held to ranges
        return
    with pytest.raises(ValueError, match=r".") as caught:
        parse_json(text)
    assert len(str(caught.value)) < 200


def test_json_is_read():
    assert parse_json(b'{"a": [1, 2.5, null, "\xc3\xa9"]}') == {"a": [1, 2.5, None, "é"]}
