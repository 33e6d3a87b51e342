"""Random numbers that are a function of a key: a user's episode is the same whoever else is simulated beside it."""

import numpy as np
from scipy.special import ndtri

_GOLDEN, _MIX1, _MIX2 = (np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def mixed(keys: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014): 64-bit words that look random, one for each key."""
    words = keys + _GOLDEN
    words = (words ^ (words >> np.uint64(30))) * _MIX1
    words = (words ^ (words >> np.uint64(27))) * _MIX2
    return words ^ (words >> np.uint64(31))


def uniform(keys: np.ndarray, n: int, offset: int = 0) -> np.ndarray:
    """
    Numbers ``(len(keys), n)`` in (0, 1), float32.

    :param keys: of the users' episodes, uint64
    :param n: numbers for each
    :param offset: position in the stream of a key
    """
    counters = np.arange(offset, offset + n, dtype=np.uint64) * _GOLDEN
    words = mixed(keys[:, None] + counters[None])
    return ((words >> np.uint64(41)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)


def normal(keys: np.ndarray, n: int, offset: int = 0) -> np.ndarray:
    """Standard normal numbers ``(len(keys), n)``, float32."""
    return ndtri(uniform(keys, n, offset).astype(np.float64)).astype(np.float32)


def episode_keys(seeds: np.ndarray, episode: int) -> np.ndarray:
    """
    Keys of the episodes of several environments.

    :param seeds: of the environments ``(n,)``
    :param episode: how many there were before
    """
    return mixed(mixed(np.asarray(seeds).astype(np.uint64)) + np.uint64(episode))
