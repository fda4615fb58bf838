"""What the result of a stage depends on, as hashes: its command, config, code, weights and data.

Nothing is imported: configs and code are followed through their ``import`` statements. Comments and docstrings do not
count, so that explaining a recipe does not run a thousand GPU hours again.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from cmae_mm.benchmark.recipe import ROOT

# What starts programs, reads records and talks to people changes no number.
_NO_NUMBERS = ("cli", "benchmark", "report", "__main__", "errors")
_EDGE = 1 << 16


def digest(parts: Iterable[bytes | str]) -> str:
    """Returns: The SHA-256 of parts, hexadecimal; where one part ends and the next begins counts."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big"))
        total.update(data)
    return total.hexdigest()


def command_hash(argv: Sequence[str], out: Path) -> str:
    """Hash of a command, the same wherever project and outputs lie.

    Args:
        argv: The command as one process on one machine runs it.
        out: Folder of all outputs.

    Returns:
        Hexadecimal digest.
    """
    places = {str(out): "OUT", str(ROOT): "ROOT"}
    words = ["python", *argv[1:]]
    for place, name in places.items():
        words = [name + w[len(place) :] if w == place or w.startswith(place + os.sep) else w for w in words]
    return digest(words)


def config_hash(config: str | Path) -> str:
    """Returns: Hash of a config with all its bases; empty if there is none."""
    if not config:
        return ""
    return _hash_of(p for p in closure([ROOT / config]) if (ROOT / "configs") in p.parents)


def code_hash(*entries: str | Path) -> str:
    """Hash of the code of the suite that a program or config reaches.

    Args:
        entries: Files where it starts, relative to the project.

    Returns:
        Hexadecimal digest.
    """
    files = closure([ROOT / entry for entry in entries if entry])
    return _hash_of(p for p in files if (ROOT / "configs") not in p.parents)


def _hash_of(files: Iterable[Path]) -> str:
    return digest(part for p in sorted(files) for part in (str(p.relative_to(ROOT)), _meaning(p, _stamp(p))))


def closure(entries: Sequence[Path]) -> set[Path]:
    """Follow imports within the project.

    Args:
        entries: Python files.

    Returns:
        They and every file of ``cmae_mm``, ``configs`` and ``tools`` that they reach, at any depth.
    """
    found: set[Path] = set()
    open_ = [p.resolve() for p in entries]
    while open_:
        path = open_.pop()
        if path not in found and path.is_file():
            found.add(path)
            open_ += [p for p in _imports(path, _stamp(path)) if p not in found]
    return found


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _tree(path: Path) -> ast.Module | None:
    """What a file says; None while it is no valid Python, as in the middle of an edit."""
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return None


@functools.cache
def _imports(path: Path, stamp: tuple[int, int]) -> tuple[Path, ...]:
    files: list[Path] = []
    for node in ast.walk(_tree(path) or ast.Module([], [])):
        if isinstance(node, ast.Import):
            for alias in node.names:
                files += _files(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            files += [base.with_suffix(".py"), base / "__init__.py"]
            files += [base / f"{alias.name}.py" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            files += _files(node.module or "", *(alias.name for alias in node.names))
    return tuple(p for p in dict.fromkeys(files) if p.is_file())


def _files(module: str, *names: str) -> Iterator[Path]:
    """The files of a module of the suite, those of the packages around it, and of the modules named from it."""
    parts = module.split(".")
    if parts[0] != "cmae_mm" or (len(parts) > 1 and parts[1] in _NO_NUMBERS):
        return
    for depth in range(1, len(parts) + 1):
        yield ROOT.joinpath(*parts[:depth], "__init__.py")
    yield ROOT.joinpath(*parts).with_suffix(".py")
    for name in names:
        if parts != ["cmae_mm"] or name not in _NO_NUMBERS:
            yield ROOT.joinpath(*parts, f"{name}.py")
            yield ROOT.joinpath(*parts, name, "__init__.py")


@functools.cache
def _meaning(path: Path, stamp: tuple[int, int]) -> str:
    """The code of a file without comments, layout and docstrings."""
    tree = _tree(path)
    if tree is None:
        return path.read_bytes().hex()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            text = first.value if isinstance(first, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                node.body = node.body[1:]
    return ast.dump(tree).replace(", type_params=[]", "")  # which Python 3.12 added


def file_hash(path: Path) -> str:
    """Returns: SHA-256 of a file, read in blocks (checkpoints can be larger than a gigabyte); "absent" without it."""
    if not path.is_file():
        return "absent"
    total = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def data_hash(folder: Path | None) -> str:
    """A fingerprint of a data set that is cheap on millions of files.

    Two levels of names; of each folder on them how many entries it has, of each table on them (annotations, lists) the
    size with the first and last 64 KiB, of other files on the first level the size. A picture that is replaced under
    its old name is not seen.

    Args:
        folder: Of the data set.

    Returns:
        Hexadecimal digest; empty without data, "absent" if the folder does not exist.
    """
    if folder is None:
        return ""
    if not folder.is_dir():
        return "absent"
    return digest(json.dumps(line) for line in _describe(folder, "", 2))


def _describe(folder: Path, prefix: str, depth: int) -> Iterator[list[str | int]]:
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        name = prefix + entry.name
        if entry.is_dir():
            yield [name, len(os.listdir(entry.path))]
            if depth > 1:
                yield from _describe(Path(entry.path), f"{name}/", depth - 1)
        elif _is_table(name):
            yield [name, entry.stat().st_size, _edges(Path(entry.path))]
        else:  # the pictures of COCO lie on the second level: more than 100,000 files, which are not touched
            yield [name, entry.stat().st_size if depth > 1 else 0]


def _is_table(name: str) -> bool:
    """Whether a file says something about the others: annotations, lists."""
    return name.endswith((".json", ".txt", ".csv", ".tsv", ".mat", ".md5"))


def _edges(path: Path) -> str:
    with open(path, "rb") as handle:
        start = handle.read(_EDGE)
        size = os.fstat(handle.fileno()).st_size
        handle.seek(max(len(start), size - _EDGE))
        return digest([start, handle.read()])


PARTS = ("command", "config", "code", "weights", "data")
"""What a fingerprint consists of."""


def join(parts: Mapping[str, str]) -> str:
    """Returns: One digest of all parts."""
    return digest(f"{name}={parts.get(name, '')}" for name in PARTS)


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Returns: The names of the parts that differ."""
    return [name for name in PARTS if before.get(name, "") != now.get(name, "")]
