"""Phases of layers: the authors' results, and exactness by brute force."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from blockzoo.tasks.raptor.segmentation import (
    LayerDistance,
    layer_distance,
    plot_segments,
    recursive_max_cut,
    segment_layers,
)


def within(D, boundaries):
    return sum(D[i:j, i:j].sum() / 2 for i, j in pairwise([0, *boundaries, len(D)]))


def random_matrix(n, seed):
    D = np.random.default_rng(seed).random((n, n))
    D = (D + D.T) / 2
    np.fill_diagonal(D, 0)
    return D


def test_recursive_max_cut_gives_the_official_clusters_contiguous_or_not(golden):
    case = golden("raptor_segmentation")
    broken = 0
    for i, about in enumerate(case.meta["cases"]):
        D = case.arrays[f"extra_W_{about['name']}"]
        clusters = recursive_max_cut(D, about["eps_frac"] * D.sum() / 2, about["min_size"])
        labels = np.zeros(len(D), dtype=int)
        for label, members in enumerate(clusters):
            labels[members] = label
        np.testing.assert_array_equal(labels, case.arrays[f"extra_case{i:02d}_labels"], err_msg=str(about))
        assert len(clusters) == about["n_clusters"]
        contiguous = all((np.diff(members) == 1).all() for members in clusters)
        assert contiguous == about["contiguous"]
        broken += not contiguous
    assert broken >= 3


def test_contiguous_optimum_has_the_stored_boundaries(golden):
    case = golden("raptor_segmentation")
    for about in case.meta["dp_cases_not_official"]:
        D = case.arrays[f"extra_W_{about['name']}"]
        found = segment_layers(D, about["k"], "dp", about["min_size"])
        assert abs(within(D, found) - about["within"]) < 1e-9
        if about["unique"]:
            assert [0, *found, len(D)] == about["boundaries"], about


@pytest.mark.parametrize("n", [1, 2, 5, 8, 12])
def test_dp_is_the_best_of_all_segmentations(n):
    for seed in range(4):
        D = random_matrix(n, seed)
        for k in range(1, n + 1):
            for min_size in (1, 2, 3):
                choices = [
                    b
                    for b in combinations(range(1, n), k - 1)
                    if all(j - i >= min_size for i, j in pairwise([0, *b, n]))
                ]
                if not choices:
                    with pytest.raises(ValueError, match=f"k={k} phases of min_size={min_size}"):
                        segment_layers(D, k, "dp", min_size)
                    continue
                found = segment_layers(D, k, "dp", min_size)
                assert found in choices
                assert within(D, found) <= min(within(D, b) for b in choices) + 1e-12


def test_bisection_reproduces_the_published_phases(golden):
    D = golden("raptor_segmentation").arrays["extra_W_dinov2b_reg_cosine_2dp"]
    published = {1: (), 2: (7,), 3: (7, 10), 4: (4, 7, 10)}
    assert {k: segment_layers(D, k, "bisect", 2) for k in published} == published
    assert segment_layers(D, 3, "dp") == (5, 9)


def test_ties_go_to_the_smallest_boundary():
    zeros = np.zeros((6, 6))
    assert segment_layers(zeros, 3, "dp") == segment_layers(zeros, 3, "bisect")[:2] == (1, 2)
    assert segment_layers(zeros, 3, "dp", 2) == (2, 4)


def test_clear_blocks_are_found_by_all_methods():
    labels = np.repeat([0, 1, 2], [3, 4, 5])
    D = np.where(labels[:, None] == labels, 0.05, 1.0 + abs(labels[:, None] - labels))
    np.fill_diagonal(D, 0)
    assert segment_layers(D, 3, "dp") == segment_layers(D, 3, "bisect") == (3, 7)
    clusters = recursive_max_cut(D, 0.05 * D.sum() / 2)
    assert sorted(c.tolist() for c in clusters) == [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9, 10, 11]]


def test_distance_is_the_mean_over_images_and_the_two_vectors():
    states = torch.randn(5, 4, 9, 6)
    D = layer_distance([states[:2], states[2:]], num_prefix_tokens=3)
    expected = np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            pairs = [(states[:, i, 0], states[:, j, 0]), (states[:, i, 3:].mean(1), states[:, j, 3:].mean(1))]
            expected[i, j] = np.mean([(1 - torch.cosine_similarity(a, b)).mean() for a, b in pairs])
    np.testing.assert_allclose(D, expected, atol=1e-6)
    patches = layer_distance([states], num_prefix_tokens=0, class_token=False)
    a, b = states[:, 0].mean(1), states[:, 2].mean(1)
    assert abs(patches[0, 2] - float((1 - torch.cosine_similarity(a, b)).mean())) < 1e-6
    assert np.abs(layer_distance([states * 7], 3) - D).max() < 1e-6


def test_wrong_input_is_named(tmp_path):
    D = random_matrix(4, 0)
    with pytest.raises(ValueError, match=r"D must be a square matrix of distances, its shape is \(3, 4\)"):
        segment_layers(D[:3], 2)
    with pytest.raises(ValueError, match="symmetric"):
        segment_layers(D + np.triu(np.ones((4, 4)), 1), 2)
    with pytest.raises(ValueError, match="method='cut' must be 'bisect' or 'dp'"):
        segment_layers(D, 2, "cut")
    with pytest.raises(ValueError, match=r"takes 2\*\*29 steps"):
        recursive_max_cut(random_matrix(30, 0), 0.1)
    with pytest.raises(ValueError, match="no phase long enough"):
        segment_layers(np.ones((6, 6)) - np.eye(6), 3, "bisect", 2)
    with pytest.raises(ValueError, match="no states"):
        LayerDistance(1).compute()
    plot_segments(D, (2,), tmp_path / "phases.png", "phases")
    assert (tmp_path / "phases.png").read_bytes()[:4] == b"\x89PNG"
