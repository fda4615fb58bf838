"""Follow a pickle on sizes alone, and refuse it where making it would cost more than it is.

``weights_only=True`` calls a fixed list of functions only, but some of them make much of little:
``bytearray(10**12)``, text that is encoded again and again, a large dictionary that is copied in every step, a key of
tuples within tuples that takes years to hash. So each instruction is followed first, on stand-ins that know their size
and nothing else. What passes takes at most some 500 MB beside its tensors, and seconds.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from typing import IO, Any

import torch
from torch._utils import IMPORT_MAPPING, NAME_MAPPING  # names of Python 2, as torch translates them

from cmae_mm.checkpoints.inert import DICTS, known_names

MAX_STEPS = 2_000_000  # instructions; a ViT-H with its optimizer has some 100,000
MAX_COPIED = 4_000_000  # items in all arguments together
MAX_NUMBER_KEYS = 10_000  # keys that are large numbers, which can be chosen so that they collide
_HEAVY = 100  # items of a tuple, with those inside: more are no keys
_MAX_WEIGHT = 1_000_000

_ENCODE = "_codecs.encode"
_COUNT = "collections.Counter"  # the milestones of a learning-rate schedule
_TORCH = "torch._utils._rebuild_"
_CALLED = frozenset(
    (
        *(_TORCH + name for name in ("tensor", "tensor_v2", "tensor_v3", "parameter")),
        "builtins.complex",
        "builtins.set",
        "collections.OrderedDict",
        "torch.Size",
        "torch.device",
        "torch.nn.parameter.Parameter",
        _COUNT,
        _ENCODE,
    )
)
_HASHES = frozenset(("builtins.set", "collections.OrderedDict", _COUNT, *DICTS))  # what they are given
_FILLED = frozenset(("pile", "builtins.list", "collections.OrderedDict", "collections.defaultdict", *DICTS))
_NAMED = frozenset(str(value) for value in vars(torch).values() if isinstance(value, torch.dtype))
_STORAGE = re.compile(r"torch\.(cuda\.)?\w+Storage|torch\.storage\.(Untyped|Typed)Storage")
_NO_ARRAYS = {
    _TORCH + "sparse_tensor": "sparse",
    _TORCH + "qtensor": "quantised",
    _TORCH + "meta_tensor_no_storage": "without values",
    _TORCH + "nested_tensor": "nested",
    _TORCH + "wrapper_subclass": "of another class",
    _TORCH + "device_tensor_from_numpy": "of another device",
    _TORCH + "device_tensor_from_cpu_tensor": "of another device",
}


class Refused(Exception):
    """Why a pickle is not loaded, as a clause; internal, users see a `UserError`."""


class UnknownName(Refused):
    """A pickle names something that weights do not need; the argument is its name."""


class _Thing:
    """A value of which only kind and size matter. ``kind`` is a name for what a function of that name made."""

    __slots__ = ("kind", "size", "weight")

    def __init__(self, kind: str, size: int = 0, weight: int = 0) -> None:
        self.kind, self.size, self.weight = kind, size, weight


_NOTHING = _Thing("number")
_NUMBER = _Thing("large number")


class DryRun:
    """Follows the pickles of one file; together they must stay within the limits.

    Attributes:
        names: Names that need a stand-in, see `inert.stand_ins`.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._left, self._copied, self._number_keys = MAX_STEPS, 0, 0
        self._heavy = False

    def follow(self, stream: IO[bytes]) -> None:
        """Follow one pickle to its end.

        Args:
            stream: At the first byte of the pickle; afterwards behind its last.

        Raises:
            Refused: If it names something unknown, or would cost too much.
            Exception: Of any kind, if it is damaged.
        """
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            self._left -= 1
            if self._left < 0:
                raise Refused(f"it has more than {MAX_STEPS} instructions beside its tensors")
            if (opcode.name, argument) == ("PROTO", 2) and number == 0:
                continue
            if opcode.name == "PROTO":
                raise Refused(f"it is written in protocol {argument} of pickle, torch.save's own is 2")
            if opcode.name == "STOP":
                return
            if (step := _STEPS.get(opcode.name)) is None:
                raise Refused(f"it has an instruction {opcode.name}, which no checkpoint has")
            step(self, argument)

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"
        if full in _NO_ARRAYS:
            raise Refused(
                f"it holds a tensor that is no plain array ({_NO_ARRAYS[full]}); save the weights as plain tensors"
            )
        if known_names([full]):
            self.names.add(full)
        elif not (full in _CALLED or full in _NAMED or _STORAGE.fullmatch(full)):
            raise UnknownName(full)
        self._stack.append(_Thing("name " + full))

    def _call(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        name = function.kind.removeprefix("name ")
        if name == function.kind or not (name in _CALLED or name in self.names):
            raise Refused(f"it calls {ascii(name)[:60]}, which no checkpoint does")
        if arguments.kind != "tuple":
            raise Refused("it calls something in a way that no checkpoint does")
        items = arguments.items
        if name == _ENCODE and [item.kind for item in items] != ["text", "text"]:
            raise Refused("it encodes something else than text")
        if name == _COUNT and [item.kind for item in items] != ["pile"]:
            raise Refused("it counts something else than a dictionary")
        if name in _HASHES and items and self._heavy:
            raise Refused(f"it makes keys of tuples with more than {_HEAVY} items")
        size = 0 if name == _ENCODE else sum(item.size for item in items)
        self._charge(len(items) + size)
        self._stack.append(_Thing(name, sum(item.size for item in items)))

    def _build(self, _: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if target.kind != "collections.OrderedDict" and target.kind not in self.names:
            raise Refused("it gives a state to something that has none")
        self._charge(0 if state.kind == "text" else 1 + state.size)

    def _charge(self, items: int) -> None:
        self._copied += items
        if self._copied > MAX_COPIED:
            raise Refused(f"it copies more than {MAX_COPIED} items")

    def _tuple(self, items: list[Any]) -> None:
        made = _Tuple(items)
        if made.weight > _MAX_WEIGHT:
            raise Refused("it nests tuples without end")
        self._heavy |= made.weight > _HEAVY
        self._stack.append(made)

    def _take(self, count: int) -> list[Any]:
        items = self._stack[len(self._stack) - count :]
        if len(items) < count:
            raise Refused("it takes more values than there are")
        del self._stack[len(self._stack) - count :]
        return items

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _mark(self, _: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _grow(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if target.kind not in _FILLED:
            raise Refused("it puts values into something that holds none")
        target.size += len(items)

    def _set(self, pairs: list[Any]) -> None:
        for key in pairs[::2]:
            if key.weight > _HEAVY:
                raise Refused(f"it has a key of more than {_HEAVY} items")
            self._number_keys += key.kind in ("large number", "tuple")
        if self._number_keys > MAX_NUMBER_KEYS:
            raise Refused(f"it has more than {MAX_NUMBER_KEYS} keys that are no text")
        self._grow(pairs[::2])

    def _storage(self, _: Any) -> None:
        if self._stack.pop().weight > _HEAVY:
            raise Refused("it names a storage in a way that no checkpoint does")
        self._stack.append(_Thing("storage"))

    def _remember(self, number: int) -> None:
        self._memo[number] = self._stack[-1]

    def _recall(self, number: int) -> None:
        self._stack.append(self._memo[number])


class _Tuple(_Thing):
    """A tuple; its weight counts the items of tuples inside, as often as they are there."""

    __slots__ = ("items",)

    def __init__(self, items: list[Any]) -> None:
        super().__init__("tuple", len(items), len(items) + sum(item.weight for item in items))
        self.items = items


def _push(made: Callable[[Any], _Thing]) -> Callable[[DryRun, Any], None]:
    return lambda run, argument: run._stack.append(made(argument))


def _join(count: int) -> Callable[[DryRun, Any], None]:
    return lambda run, _: run._tuple(run._take(count))


_STEPS: dict[str, Callable[[DryRun, Any], None]] = {
    "GLOBAL": DryRun._global,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), DryRun._call),
    "BUILD": DryRun._build,
    "BINPERSID": DryRun._storage,
    "MARK": DryRun._mark,
    "TUPLE": lambda run, _: run._tuple(run._pop_mark()),
    "EMPTY_TUPLE": _join(0),
    "TUPLE1": _join(1),
    "TUPLE2": _join(2),
    "TUPLE3": _join(3),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"), _push(lambda _: _Thing("pile"))),
    "APPEND": lambda run, _: run._grow(run._take(1)),
    "APPENDS": lambda run, _: run._grow(run._pop_mark()),
    "SETITEM": lambda run, _: run._set(run._take(2)),
    "SETITEMS": lambda run, _: run._set(run._pop_mark()),
    **dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE"), _push(lambda _: _NOTHING)),
    **dict.fromkeys(("BININT", "BININT1", "BININT2"), _push(lambda _: _NOTHING)),
    **dict.fromkeys(("LONG1", "BINFLOAT"), _push(lambda _: _NUMBER)),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINSTRING"), _push(lambda text: _Thing("text", len(text)))),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), DryRun._remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), DryRun._recall),
}
