"""Files that are made to fill the memory or to take for ever: refused in a process that has little of both."""

import json
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
MEMORY = 1 << 30  # bytes beside the libraries: one instruction in a byte may make a set of 200
SECONDS = 60  # of computing, all files together, on a busy machine

READ = """
import resource, sys
from cmae_mm.checkpoints import load_backbone
from cmae_mm.checkpoints.importing import import_checkpoint
from cmae_mm.checkpoints.inspecting import inspect_file
from cmae_mm.errors import UserError
memory, *paths = sys.argv[1:]
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + int(memory)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in paths:
    for reader in (import_checkpoint, inspect_file, load_backbone) if path.endswith("rs") else (import_checkpoint,):
        try:
            reader(path)
        except UserError as error:
            print(f"{reader.__name__} {error}")
        else:
            print(f"{reader.__name__} {path}: was read")
"""


def text(words):
    return pickle.BINUNICODE + struct.pack("<I", len(words)) + words


def bombs(folder):
    """Each file, and what is said of it."""
    saved = folder / "saved.pth"
    torch.save({"w": torch.zeros(1)}, saved)

    def packed(name, data, **how):
        with zipfile.ZipFile(saved) as old, zipfile.ZipFile(folder / name, "w", **how) as new:
            for entry in old.infolist():
                own = data if entry.filename.endswith("data.pkl") else old.read(entry)
                new.writestr(entry.filename.replace("saved", name.partition(".")[0]), own)

    def safetensors(name, header, length=None):
        start = (len(header) if length is None else length).to_bytes(8, "little")
        (folder / name).write_bytes(start + header)

    start, end = pickle.PROTO + b"\x02", pickle.STOP
    packed("deflated.pth", b"\0" * (1 << 28), compression=zipfile.ZIP_DEFLATED)
    packed("sets.pth", start + pickle.EMPTY_LIST + pickle.MARK + b"\x8f" * (1 << 24) + b"e" + end)
    torch.save({"w": torch.zeros(1).expand(2**20, 2**20)}, folder / "wide.pth")
    with zipfile.ZipFile(saved) as old:
        one = old.read("saved/data.pkl")
    tensor = one[one.index(b"ctorch._utils") : one.rindex(b"s.")]
    keys = b"".join(text(b"%d" % i) + pickle.BINGET + b"\xff" for i in range(100_000))
    packed("keys.pth", start + b"}(" + text(b"x") + tensor + pickle.BINPUT + b"\xff" + keys + b"u" + end)
    packed("key.pth", start + b"}" + text(b"layers.0." * 10**6) + tensor + b"s" + end)
    torch.save({"w": torch.zeros(1000)}, folder / "old.pth", _use_new_zipfile_serialization=False)
    lie = (folder / "old.pth").read_bytes().replace(b"M\xe8\x03", b"\x8a\x06" + (2**40).to_bytes(6, "little"))
    (folder / "old.pth").write_bytes(lie)
    (folder / "lists.pth").write_bytes(b"\x80\x02" + b"]" * (1 << 24) + b".")
    safetensors("long.safetensors", b"{" + b" " * 90_000_000 + b"}")
    safetensors("lists.safetensors", b'{"w":[' + b"[]," * 1_300_000 + b"[]]}")
    safetensors("deep.safetensors", b"[" * 4_000_000)
    safetensors("length.safetensors", b"{}", 2**63)
    many = {f"{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(60_000)}
    safetensors("many.safetensors", json.dumps(many).encode())
    return {
        "deflated.pth": "is compressed",
        "sets.pth": "instructions",
        "wide.pth": "more than 8 times the file",
        "keys.pth": "holds 100001 tensors",
        "key.pth": "names of up to 9000000 characters",
        "old.pth": "not a readable",
        "lists.pth": "not a readable",
        "long.safetensors": "its header has 90000002 bytes",
        "lists.safetensors": "not a readable",
        "deep.safetensors": "nests too deep",
        "length.safetensors": "its header is said to have",
        "many.safetensors": "holds 60000 tensors",
    }


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits of memory need Linux")
def test_bombs_in_a_process_with_little_memory(tmp_path):
    said = bombs(tmp_path)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(MEMORY), *(str(tmp_path / name) for name in said)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = dict.fromkeys(done.stdout.splitlines())
    for name, words in said.items():
        found = [line for line in lines if line.startswith(f"import_checkpoint {tmp_path / name}: ")]
        assert len(found) == 1, name
        assert words in found[0]
        others = [line for line in lines if f" {tmp_path / name}: " in line and line not in found]
        assert len(others) == (2 if name.endswith(".safetensors") else 0), name
        assert not any(line.startswith("load_backbone") and "was read" in line for line in others)
    assert after.ru_utime - before.ru_utime < SECONDS
