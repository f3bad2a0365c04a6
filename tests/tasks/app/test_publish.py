"""What is published was measured again, and may be refused."""

import pytest

from blockzoo.tasks.app.publish import _check_claim


def test_all_data_packaged_means_the_same_figure():
    assert _check_claim(0.98, 0.9800001, 1e-4, None, True) == {}
    with pytest.raises(ValueError, match=r"the run reports 0.98, but its weights reach 0.1 on the packaged data"):
        _check_claim(0.98, 0.1, 1e-4, None, True)


@pytest.mark.parametrize(
    ("claimed", "measured", "is_share"), [(0.78, 0.775, True), (0.14, 0.147, False), (1.0, 0.99, True)]
)
def test_a_sample_may_differ_by_chance(claimed, measured, is_share):
    assert _check_claim(claimed, measured, 1e-4, 200, is_share) == {"sample": measured}


@pytest.mark.parametrize(
    ("claimed", "measured", "is_share"), [(0.98, 0.1, True), (0.14, 0.3, False), (0.9, float("nan"), True)]
)
def test_a_sample_that_disagrees_is_refused(claimed, measured, is_share):
    with pytest.raises(ValueError, match="on a sample of 200, further away than"):
        _check_claim(claimed, measured, 1e-4, 200, is_share)
