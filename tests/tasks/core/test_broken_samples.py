"""Which samples are left when some cannot be read, and what is said about the others."""

import pytest

from blockzoo.tasks.core.broken_samples import kept_samples

NAMES = ("cat", "dog", "eel")


def test_the_rest_is_kept_and_the_broken_are_named(capsys):
    labels = [(0,), (1,), (0,), (1,)]  # no eel, as before
    assert kept_samples([None, "b is broken", None, None], labels, "image", "train", NAMES) == (
        [0, 2, 3],
        ["b is broken"],
    )
    assert capsys.readouterr().err == "skipped: b is broken\n"
    kept, broken = kept_samples(["x"] * 30 + [None], [(0,)] * 31, "image", "val", NAMES)
    assert kept == [30] and len(broken) == 30
    assert capsys.readouterr().err.splitlines()[-1] == "skipped: and 10 more"


def test_a_part_or_class_that_is_lost_stops_the_run():
    labels = [(0,), (1,)]
    with pytest.raises(ValueError, match="none of the 2 videos of the val part can be read; the first: a is broken"):
        kept_samples(["a is broken", "b is broken"], labels, "video", "val", NAMES)
    with pytest.raises(ValueError, match="class 'dog' has no training video that can be read"):
        kept_samples([None, "b is broken"], labels, "video", "train", NAMES)
    assert kept_samples([None, "b is broken"], labels, "video", "val", NAMES)[0] == [0]
