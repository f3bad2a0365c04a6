"""Random streams of seeds and places."""

import numpy as np
import pytest

from blockzoo.tasks.core.streams import stream


def test_every_seed_and_place_has_a_stream_of_its_own():
    drawn = {
        key: stream(*key).standard_normal(4).tobytes()
        for key in [(0, 0), (0, 1), (1, 0), (0, 1_000_003), (2**32, 0), (0, 2**32), (0,), (0, 0, 0), (0, 0, 1)]
    }
    assert len(set(drawn.values())) == len(drawn)
    assert all(stream(*key).standard_normal(4).tobytes() == values for key, values in drawn.items())
    many = np.stack([stream(0, i).standard_normal(64) for i in range(256)])
    assert abs(np.corrcoef(many)[np.triu_indices(256, 1)]).max() < 0.65  # five deviations of 1 / 8


def test_negative_numbers_are_named():
    with pytest.raises(ValueError, match="seed=-1 and place="):
        stream(-1, 0)
