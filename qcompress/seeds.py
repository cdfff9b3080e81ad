"""One seed per run, one named stream per stage; nothing in the package touches a global generator."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["integer", "stream"]


def stream(seed: int, name: str) -> np.random.Generator:
    """The generator of the stage called `name`: the same for the same seed and name, in every process.

    >>> int(stream(0, "search").integers(1000)) == int(stream(0, "search").integers(1000))
    True
    """
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "big")])


def integer(seed: int, name: str) -> int:
    """A seed in 0 .. 2**31 - 1 for a library that wants a number, drawn from the stream `name`."""
    return int(stream(seed, name).integers(2**31))
