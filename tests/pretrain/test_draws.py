"""Keyed random numbers: against a plain integer loop, and against what uniform and independent mean."""

import itertools

import numpy as np
import pytest
import torch

from cmae_mm.pretrain.draws import Stream, mix, uniform_table, uniforms

WORD = 2**64


def mix_slowly(z):
    """splitmix64's finaliser on Python's own integers."""
    z %= WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % WORD
    return z ^ (z >> 31)


def uniform_slowly(key, stream, column):
    state = mix_slowly(key + stream * 0xD1B54A32D192ED03)
    return (mix_slowly(state + (column + 1) * 0x9E3779B97F4A7C15) >> 40) / 2**24


ODD_KEYS = [0, 1, 2, -1, -2, 2**63 - 1, -(2**63), 2**62 + 12345, 0x123456789ABCDEF]


@pytest.mark.parametrize("device", ["cpu"] + ["cuda"] * torch.cuda.is_available())
def test_equals_the_integer_loop(device):
    for stream in (0, 1, Stream.BLUR.of(2), 63):
        out = uniforms(torch.tensor(ODD_KEYS, device=device), stream, 7)
        expected = [[uniform_slowly(key, stream, j) for j in range(7)] for key in ODD_KEYS]
        assert out.tolist() == expected


def test_mix_is_the_published_splitmix64():
    """The generator of seed 1234567 starts with these numbers (Rosetta Code, "Pseudo-random numbers/Splitmix64")."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    steps = torch.tensor([(1234567 + i * 0x9E3779B97F4A7C15 + 2**63) % WORD - 2**63 for i in range(1, 6)])
    assert [value % WORD for value in mix(steps).tolist()] == published


def test_a_key_decides_alone():
    keys = torch.tensor(ODD_KEYS)
    whole = uniforms(keys, 3, 5)
    assert whole.dtype == torch.float32
    for n in range(len(keys)):
        assert torch.equal(uniforms(keys[n : n + 1], 3, 5)[0], whole[n])
    assert torch.equal(uniforms(keys.flip(0), 3, 5), whole.flip(0))
    assert torch.equal(uniforms(keys, 3, 2), whole[:, :2])
    state = torch.get_rng_state()
    uniforms(keys, 3, 5)
    assert torch.equal(state, torch.get_rng_state())


def test_uniform_in_every_column_and_stream():
    """Chi-square with 64 bins, 63 degrees of freedom: below 20 or above 142 with probability 1e-7."""
    for keys in (torch.arange(50_000), torch.arange(50_000) * 2**40, torch.randint(2**62, (50_000,))):
        for stream in (0, 1, 17):
            u = uniforms(keys, stream, 4)
            assert u.min() >= 0
            assert u.max() < 1
            for column in u.unbind(1):
                counts = torch.bincount((column * 64).long(), minlength=64).double()
                statistic = ((counts - 50_000 / 64) ** 2 / (50_000 / 64)).sum().item()
                assert 20 < statistic < 142
                assert abs(column.mean().item() - 0.5) < 6 * (1 / 12) ** 0.5 / 50_000**0.5


def test_columns_streams_and_neighbours_are_independent():
    """Correlations of 20,000 pairs have deviation 0.0071; 6 of them for some 900 pairs."""
    keys = torch.arange(20_000)
    series = [u for stream in range(6) for u in uniforms(keys, stream, 6).unbind(1)]
    series += [uniforms(keys + step, 0, 1)[:, 0] for step in (1, 2, 16, 1024, 2**32)]
    table = np.corrcoef(torch.stack(series).numpy())
    table = table - np.eye(len(table))
    assert np.abs(table).max() < 6 / 20_000**0.5
    # pairs of columns fill the square evenly too: 16 x 16 cells, 255 degrees of freedom, deviation 22.6
    for a, b in itertools.pairwise(series[:8]):
        cells = torch.bincount((a * 16).long() * 16 + (b * 16).long(), minlength=256).double()
        assert ((cells - 20_000 / 256) ** 2 / (20_000 / 256)).sum() < 255 + 7 * 22.6


@pytest.mark.parametrize("step", [1, 2, 2**20, 2**40])
def test_neighbouring_keys_never_meet(step):
    """96 bits for each of 100,000 keys and 2 streams: a meeting by chance has probability 3e-19."""
    keys = torch.arange(100_000) * step
    rows = torch.cat([uniforms(keys, stream, 4) for stream in (0, 1)])
    words = (rows.double() * 2**24).long()
    packed = torch.stack([words[:, 0] << 24 | words[:, 1], words[:, 2] << 24 | words[:, 3]], 1)
    assert len(torch.unique(packed, dim=0)) == 200_000


def test_one_bit_of_the_key_turns_half_of_the_bits():
    keys = torch.randint(2**62, (2000,))
    base = (uniforms(keys, 0, 2) * 2**24).long()
    for bit in range(0, 62, 5):
        turned = base ^ (uniforms(keys ^ (1 << bit), 0, 2) * 2**24).long()
        share = sum(((turned >> i) & 1).double().mean() for i in range(24)) / 24
        # 2000 x 2 x 24 bits: deviation 0.5 / sqrt(96,000) = 0.0016
        assert abs(share - 0.5) < 6 * 0.0016


def test_the_table_holds_every_stream():
    keys = torch.tensor(ODD_KEYS)
    table = uniform_table(keys, 5)
    numbers = sorted(stream.of(view) for stream in Stream for view in range(3))
    assert numbers == list(range(table.shape[1]))  # no two purposes share a stream
    for number in numbers:
        assert torch.equal(table[:, number], uniforms(keys, number, 5))
