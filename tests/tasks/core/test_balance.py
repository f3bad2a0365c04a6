"""Counts, weights and draws for classes of unequal size."""

import pytest
import torch

from blockzoo.tasks.core.balance import balanced_sampler, balanced_weights, class_counts


def test_counts_and_weights_are_the_stated_formulas():
    labels = [(0,), (0,), (0,), (1,)]
    counts = class_counts(labels, 2)
    assert counts.tolist() == [3, 1]
    torch.testing.assert_close(balanced_weights(counts, 4), torch.tensor([4 / 6, 4 / 2]))
    several = [(0, 1), (), (0,), (0, 1), (2,)]
    counts = class_counts(several, 3)
    assert counts.tolist() == [3, 2, 1]
    torch.testing.assert_close(balanced_weights(counts, 5, True), torch.tensor([2 / 3, 3 / 2, 4.0]))


def test_what_no_weight_balances_is_refused():
    with pytest.raises(ValueError, match="class 2 has 0 of 4 training samples"):
        balanced_weights(torch.tensor([3, 1, 0]), 4)
    with pytest.raises(ValueError, match="class 1 has 4 of 4 training samples"):
        balanced_weights(torch.tensor([3, 4]), 4, several=True)


def test_draws_are_as_rare_as_the_rarest_class_of_a_sample():
    sampler = balanced_sampler([(0,), (0,), (0, 1), (), (0,)], 2)
    torch.testing.assert_close(sampler.weights, torch.tensor([0.25, 0.25, 1.0, 0.25, 0.25], dtype=torch.double))
    assert len(list(sampler)) == 5
