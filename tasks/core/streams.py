"""Random streams that are set by a seed and further numbers, and never overlap."""

import numpy as np

__all__ = ["stream"]


def stream(seed: int, *place: int) -> np.random.Generator:
    """Make the random stream of a seed and a place, for example of one sample.

    Seeds computed from sums and products collide: index 1,000,003 with seed 0 could give the stream of index 0 with
    seed 1. torch's own generator uses only 32 bits of a seed. Here, every pair has its own stream.

    Args:
        seed: From 0 to 2 ** 64 - 1.
        *place: Numbers of the place, from 0 to 2 ** 64 - 1, such as the index of a sample.

    Returns:
        A generator at the beginning of the stream.

    Raises:
        ValueError: A number is out of range.
    """
    if not all(0 <= number < 2**64 for number in (seed, *place)):
        raise ValueError(f"seed={seed} and place={place} must be from 0 to 2 ** 64 - 1")
    # Two words for each number: a key of one number above 32 bits would be that of two small ones.
    words = [word for number in place for word in divmod(number, 2**32)]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=words)))
