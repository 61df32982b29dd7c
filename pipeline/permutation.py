"""Shuffles of numbers that are functions: any place of any epoch's order is found without making the order.

The shuffle is a Feistel cipher on row numbers, so the row at any place is found in constant time and memory. A network
with rounds of hashes is a permutation whatever the hashes are (Luby and Rackoff, 1988); row numbers outside the table
are encrypted again until they fall inside it ("cycle walking", Black and Rogaway, 2002).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]

_ROUNDS = 6
_FEW = 256
"""Up to this size whole permutations are made, by sorting hashes: the cipher shuffles few numbers poorly."""
_AT_ONCE = 4096


def shuffled(index: Ints, size: int, seed: int, epoch: Ints | int = 0) -> Ints:
    """Row numbers int64, shaped like `index`: a permutation of range(size) for each seed and epoch.

    index: int64 in [0, size). epoch: one for all, or one for each index. Cost: about 0.3 us an index.
    """
    if size < 1:
        raise ValueError(f"there is nothing to shuffle, got {size = }")
    keys = np.broadcast_to(_mix(_u64(epoch) ^ _mix(_u64(seed))), np.shape(index))
    if size <= _FEW:
        return _among_few(np.asarray(index, np.int64), size, keys)
    half_bits = ((size - 1).bit_length() + 1) // 2
    out = np.asarray(index, np.int64).astype(np.uint64)
    outside = np.ones(out.shape, bool)
    while outside.any():
        out[outside] = _encrypt(out[outside], half_bits, keys[outside])
        outside &= out >= np.uint64(size)
    return out.astype(np.int64)


def key_of(seed: int, *parts: int) -> int:
    """A seed for one of many shuffles that are to be independent: unlike numbers give unlike seeds."""
    return xxhash.xxh3_64_intdigest(np.array([seed & (2**64 - 1), *parts], np.uint64).tobytes())


def derangement(groups: Sequence[str] | NDArray[Any], seed: int = 0) -> Ints:
    """For each of n items another one, never itself and, where possible, never one of its own group: int64 (n,).

    A permutation, the same for the same groups and seed. Groups are sources: clips of one source share what they show.
    Possible when no group holds more than half of the items. Raises ValueError for fewer than two items.
    """
    labels, group = np.unique(np.asarray(groups), return_inverse=True)
    if len(group) < 2:
        raise ValueError(f"swapping a modality between samples needs two samples that have it, got {len(group)}")
    rng = np.random.Generator(np.random.Philox(key=[seed & (2**64 - 1), 0]))
    group_order = rng.permutation(len(labels))
    order = np.lexsort((rng.random(len(group)), group_order[group]))  # groups side by side, shuffled inside
    largest = int(np.bincount(group).max())
    shift = largest if 2 * largest <= len(group) else 1
    donor = np.empty(len(group), np.int64)
    donor[order] = np.roll(order, -shift)
    return donor


def _among_few(index: Ints, size: int, keys: NDArray[np.uint64]) -> Ints:
    """`index` looked up in the permutation that each key stands for."""
    out = np.empty(index.shape, np.int64)
    different, which = np.unique(keys, return_inverse=True)
    which = which.reshape(index.shape)
    numbers = _u64(np.arange(size))
    for first in range(0, len(different), _AT_ONCE):
        some = different[first : first + _AT_ONCE]
        table = np.argsort(_mix(numbers ^ _mix(some)[:, None]), axis=1, kind="stable")
        mine = (which >= first) & (which < first + len(some))
        out[mine] = table[which[mine] - first, index[mine]]
    return out


def _encrypt(value: NDArray[np.uint64], half_bits: int, key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = value >> shift, value & mask
    for number in range(_ROUNDS):
        left, right = right, left ^ (_mix(right ^ (key + np.uint64(number << half_bits))) & mask)
    return (left << shift) | right


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014): every input bit moves every output bit."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _u64(value: Ints | int) -> NDArray[np.uint64]:
    """As uint64 with a golden-ratio offset, for which zero is no fixed point of `_mix`."""
    if isinstance(value, int):
        value_u = np.asarray([value & (2**64 - 1)], np.uint64)
    else:
        value_u = np.asarray(value).astype(np.uint64)
    return value_u * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
