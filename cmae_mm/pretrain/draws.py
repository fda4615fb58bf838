"""Random numbers that depend on a key, a stream and a column, and on nothing else.

A generator gives the next number of a sequence, so a draw depends on everything drawn before: on the batch, on the
number of loader processes and of GPUs. Here each sample has a key, and each number is a hash of the key, of what it is
for, and of its place. The views of a sample can so be drawn again anywhere, alone or in a batch, on any device.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

_VIEWS = 3  # streams of one purpose: what the views share, the first view, the second


class Stream(IntEnum):
    """What numbers are drawn for; ``Stream.CROP.of(2)`` is the stream of the second view's crop."""

    SHIFT = 0
    CROP = 1
    FLIP = 2
    JITTER = 3
    GRAY = 4
    BLUR = 5

    def of(self, view: int) -> int:
        """Number the stream of one view: 0 is what the views share, 1 the first view, 2 the second."""
        return _VIEWS * self + view


def _signed(pattern: int) -> int:
    """Read 64 bits as int64 does."""
    return pattern - 2**64 if pattern >> 63 else pattern


# Odd, so that multiples never meet; the first is 2**64 over the golden ratio, as in splitmix64.
_COLUMN_STEP = _signed(0x9E3779B97F4A7C15)
_STREAM_STEP = _signed(0xD1B54A32D192ED03)
_ROUNDS = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)))


def _fold(bits: Tensor, shift: int) -> Tensor:
    # torch shifts the sign in, the mask takes it out
    return bits ^ ((bits >> shift) & ((1 << (64 - shift)) - 1))


def mix(bits: Tensor) -> Tensor:
    """Scramble int64 one to one: each input bit turns about half of the output bits.

    The finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014), with int64 products that wrap.

    Args:
        bits: int64, any shape.
    """
    for shift, factor in _ROUNDS:
        bits = _fold(bits, shift) * factor
    return _fold(bits, 31)


def uniforms(keys: Tensor, stream: int, count: int) -> Tensor:
    """Draw ``count`` numbers for each key: the same ones whenever and wherever they are asked for.

    Args:
        keys: (N,) int64, any values; equal keys get equal numbers.
        stream: What the numbers are for, see `Stream`; streams are independent of each other.
        count: Numbers for each key. A larger count only adds columns.

    Returns:
        (N, count) float32 in [0, 1): multiples of 2**-24, exact on every device.
    """
    return _hash(keys + _signed(stream * _STREAM_STEP % 2**64), count)


def uniform_table(keys: Tensor, count: int) -> Tensor:
    """Draw ``count`` numbers of every `Stream` at once, in as many kernels as one stream takes.

    Args:
        keys: (N,) int64.
        count: Numbers for each key and stream.

    Returns:
        (N, S, count) float32; entry ``[:, s]`` is ``uniforms(keys, s, count)``.
    """
    streams = torch.arange(_VIEWS * len(Stream), device=keys.device)
    return _hash(keys.unsqueeze(1) + streams * _STREAM_STEP, count)


def _hash(seeds: Tensor, count: int) -> Tensor:
    columns = torch.arange(1, count + 1, device=seeds.device) * _COLUMN_STEP
    bits = mix(mix(seeds).unsqueeze(-1) + columns)
    return ((bits >> 40) & 0xFFFFFF).float() * 2.0**-24
