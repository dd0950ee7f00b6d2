"""Philox4x32-10 in numpy, written from the paper (Salmon et al., SC 2011).

A block is a pure function of (seed, stream, step, index): counter = (index low, index high, step,
stream), key = (seed low, seed high).
"""

import numpy as np

_MASK = np.uint64(0xFFFFFFFF)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)


def block(index, stream, step, seed):
    """Four 32-bit words per index, as uint64 [..., 4]."""
    index = np.asarray(index, dtype=np.uint64)
    shift = np.uint64(32)
    c0, c1 = index & _MASK, index >> shift
    c2 = np.full(index.shape, step, dtype=np.uint64)
    c3 = np.full(index.shape, stream, dtype=np.uint64)
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        a, b = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (b >> shift) ^ c1 ^ np.uint64(k0),
            b & _MASK,
            (a >> shift) ^ c3 ^ np.uint64(k1),
            a & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1)


def unit(words):
    """Words as f32 uniform on [0, 1): the top 24 bits."""
    return ((words >> np.uint64(8)).astype(np.float32) / np.float32(1 << 24)).astype(np.float32)


def below(words, n):
    """Words as integers uniform on 0..n, by multiply-high."""
    return ((words * np.uint64(n)) >> np.uint64(32)).astype(np.int64)


class Rng:
    """One stream at one step."""

    def __init__(self, seed, stream, step):
        self.seed, self.stream, self.step = seed, stream, step

    def words(self, index):
        return block(index, self.stream, self.step, self.seed)

    def unit(self, index):
        return unit(self.words(index)[..., 0])

    def below(self, index, n):
        return below(self.words(index)[..., 0], n)


def state(seed, step):
    """The device's random state: {seed_lo, seed_hi, step, 0}."""
    return np.array([seed & 0xFFFFFFFF, seed >> 32, step, 0], dtype=np.uint32)


def check():
    """The known-answer vector published with Random123."""
    got = block(0x85A308D3 << 32 | 0x243F6A88, 0x03707344, 0x13198A2E, 0x299F31D0 << 32 | 0xA4093822)
    assert [int(w) for w in got] == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1], got


check()
