"""Random streams that belong to a seed and further numbers, and never overlap."""

import numpy as np

__all__ = ["stream"]


def stream(seed: int, *place: int) -> np.random.Generator:
    """The random numbers of one place, for example of one sample, in what a seed starts.

    Sums and products of seeds and indices meet: the stream of index 1,000,003 under seed 0 is that of index 0 under
    seed 1. torch's own generator takes 32 bits of a seed only. Here every pair has a stream of its own.

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
