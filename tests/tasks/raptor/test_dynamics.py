"""Quantities of the dynamics: stored values, and systems whose answers are known; the report."""

import json
import math

import pytest
import torch

from blockzoo.__main__ import main
from blockzoo.tasks.raptor import dynamics
from blockzoo.tasks.raptor.depth_probe import DepthProbe, bin_edges, center_pad, depth_loss, depth_to_bins, eigen_mask
from blockzoo.tasks.raptor.segmentation import layer_distance


def linear_run(matrix, x, steps):
    """States (B, steps + 1, N, dim) of x <- matrix x."""
    states = [x]
    for _ in range(steps):
        states.append(states[-1] @ matrix.T)
    return torch.stack(states, 1)


def rotation(angle):
    return torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.double)


@pytest.fixture
def runs(noise):
    """The stored case's clean and perturbed trajectories."""

    def named(name, *shape):
        return torch.from_numpy(noise(f"input:{name}", shape)).double()

    x = [named("traj0", 3, 21, 24)]
    for layer in range(1, 7):
        pull = 0.5 * layer * named("attractor", 1, 1, 24) / 24**0.5
        x.append(1.15 * x[-1] + 0.6 / layer * named(f"traj{layer}", 3, 21, 24) + pull)
    push = named("pert", 3, 21, 24)
    y = [state if layer < 2 else state + 0.3 * 0.7 ** (layer - 2) * push for layer, state in enumerate(x)]
    return torch.stack(x, 1), torch.stack(y, 1)


def test_all_quantities_have_their_stored_values(golden, runs):
    case, (x, y) = golden("raptor_dynamics"), runs
    found = {"layer_distance": torch.from_numpy(layer_distance([x], 5))}
    for group, part in dynamics.group_slices(5).items():
        here = x[:, :, part]
        found[f"gamma_{group}"] = dynamics.direction_convergence(here)
        found[f"speed_{group}"] = dynamics.angular_speed(here)
        found[f"norm_{group}"] = dynamics.token_norms(here)
        found |= {f"{name}_{group}": value for name, value in dynamics.update_ranks(here).items()}
    patches, lead = x[:, :, 5:], x[:, :, :1]
    found["coherence_state_patch"] = found["cos_to_mean_patch"] = dynamics.coherence(patches)
    found["coherence_update_patch"] = dynamics.update_coherence(patches)
    for group, states, rank in (("cls", lead, 6), ("patch", patches, 8)):
        modes = dynamics.dmd(states, rank)
        found[f"dmd_abs_eigenvalues_{group}_r{rank}"] = modes["eigenvalues"].abs()
        found[f"dmd_residual_{group}_r{rank}"] = torch.tensor([modes["residual"]])
    corrected = dynamics.self_correction(lead, y[:, :, :1], 2)
    found |= {"perturb_angle_cls": corrected["angle"], "perturb_ratio_cls": corrected["ratio"]}
    found["r2_per_layer"] = dynamics.layer_r2(x, y)
    found["r2_per_layer_variance_weighted"] = dynamics.layer_r2(x, y, weighted=True)
    assert {name for name in case.meta["outputs"] if "overcomplete" not in name} == set(found)
    for name, value in found.items():
        assert case.error(name, value) < 1e-6, name


def test_a_rotation_has_its_angle_as_speed_and_its_phases_as_eigenvalues():
    states = linear_run(rotation(0.3), torch.randn(4, 5, 2, dtype=torch.double), 6)
    torch.testing.assert_close(dynamics.angular_speed(states), torch.full((6,), 0.3, dtype=torch.double))
    expected = torch.cos(0.3 * torch.arange(6, -1, -1, dtype=torch.double))
    torch.testing.assert_close(dynamics.direction_convergence(states), expected)
    modes = dynamics.dmd(states, rank=2)
    angles = modes["eigenvalues"].angle().sort().values
    torch.testing.assert_close(angles, torch.tensor([-0.3, 0.3], dtype=torch.double))
    torch.testing.assert_close(modes["eigenvalues"].abs(), torch.ones(2, dtype=torch.double))
    assert modes["residual"] < 1e-12
    assert modes["identity"] == pytest.approx(2 * math.sin(0.15))
    assert dynamics.dmd(states, rank=5)["eigenvalues"].shape == (2,)


def test_power_iteration_converges_at_the_ratio_of_its_eigenvalues():
    matrix = torch.diag(torch.tensor([2.0, 1.0, 0.5], dtype=torch.double))
    x = torch.rand(8, 3, 3, dtype=torch.double) + 0.5
    states = linear_run(matrix, x, 30)
    gamma = dynamics.direction_convergence(states)
    assert (gamma.diff() >= -1e-12).all() and gamma[-1] == pytest.approx(1)
    corrected = dynamics.self_correction(states, linear_run(matrix, x + 0.05 * torch.rand_like(x), 30), 0)
    torch.testing.assert_close(
        corrected["contraction"][20:], torch.full((10,), 0.5, dtype=torch.double), rtol=1e-3, atol=0
    )
    assert corrected["ratio"][-1] < 1e-7
    norms = dynamics.token_norms(states)
    assert norms[-1] / norms[-2] == pytest.approx(2)


def test_perturbed_run_uses_the_layers_behind_the_perturbation():
    matrix = torch.diag(torch.tensor([1.0, 0.5], dtype=torch.double))
    states = linear_run(matrix, torch.tensor([[[3.0, 0.0]]], dtype=torch.double), 4)
    depths = []

    def step(x, depth):
        depths.append(depth)
        return x @ matrix.T

    run = dynamics.perturbed_run(step, states, 2, 0.1)
    assert depths == [3, 4] and torch.equal(run[:, :2], states[:, :2])
    assert (run[:, 2] - states[:, 2]).norm() == pytest.approx(0.3)
    ratio = (run[:, 2:, 0, 1] / run[:, 2:, 0, 0]).flatten()
    corrected = dynamics.self_correction(states, run, 2)
    torch.testing.assert_close(corrected["angle"][2:], torch.atan(ratio.abs()))
    torch.testing.assert_close(run, dynamics.perturbed_run(step, states, 2, 0.1))
    with pytest.raises(ValueError, match="layer=1: the runs do not differ there"):
        dynamics.self_correction(states, run, 1)


def test_ranks_count_the_directions_that_updates_have():
    one = torch.tensor([1.0, 0, 0, 0], dtype=torch.double)
    ends = torch.eye(4, dtype=torch.double)[1:]
    states = torch.stack([one.expand(3, 4), ends], 1)[:, :, None]
    centred = ends - one  # Gram matrix 1 + identity: eigenvalues 4, 1, 1
    ranks = dynamics.update_ranks(states)
    sigma = torch.linalg.svdvals(centred)
    torch.testing.assert_close(sigma.square(), torch.tensor([4.0, 1, 1], dtype=torch.double))
    assert float(ranks["stable_rank"][0]) == pytest.approx(6 / 4)
    assert float(ranks["participation_ratio"][0]) == pytest.approx(36 / 18)
    p = torch.tensor([0.5, 0.25, 0.25])
    assert float(ranks["effective_rank"][0]) == pytest.approx(float((-(p * p.log()).sum()).exp()))
    same = torch.stack([one.expand(3, 4), ends[:1].expand(3, 4)], 1)[:, :, None]
    assert all(float(value[0]) == pytest.approx(1) for value in dynamics.update_ranks(same).values())


def test_coherence_is_one_for_agreement_and_zero_for_opposites():
    x = torch.randn(2, 3, 1, 5)
    torch.testing.assert_close(dynamics.coherence(x.expand(-1, -1, 4, -1)), torch.ones(3, dtype=torch.double))
    assert float(dynamics.coherence(torch.cat([x, -x], 2)).max()) < 1e-12


def test_basins_are_found_where_classes_separate():
    start = torch.randn(20, 1, 6, dtype=torch.double)
    labels = torch.arange(20) % 2
    goal = torch.eye(6, dtype=torch.double)[labels][:, None]
    states = torch.stack([(1 - a) * start + a * 5 * goal for a in (0.0, 0.5, 0.99)], 1)
    basins = dynamics.angular_basins(states, labels)
    assert float(basins["accuracy"][-1]) == 1 and float(basins["accuracy"][0]) < 1
    assert (basins["ratio"].diff() < 0).all() and float(basins["ratio"][-1]) < 0.02
    with pytest.raises(ValueError, match="two classes or more"):
        dynamics.angular_basins(states, torch.zeros(20))


def test_half_rise_and_phase_speeds_are_read_off():
    assert dynamics.half_rise(torch.tensor([0.0, 0.25, 0.75, 1.0])) == pytest.approx(1.5)
    assert dynamics.half_rise(torch.tensor([1.0, 1.0])) == 1
    speeds = dynamics.phase_speeds(torch.tensor([1.0, 1, 4, 1, 1]), (2,))
    assert speeds == {"inside": 1.0, "boundary": 4.0}
    assert dynamics.group_slices(1) == {"cls": slice(0, 1), "patch": slice(1, None)}
    assert list(dynamics.group_slices(0, class_token=False)) == ["patch"]


def test_wrong_input_is_named():
    states = torch.randn(2, 4, 3, 5)
    with pytest.raises(ValueError, match=r"states must be \(B, layers, tokens, dim\)"):
        dynamics.angular_speed(states[0])
    with pytest.raises(ValueError, match="first=2 and last=2 must increase within 0 to 3"):
        dynamics.dmd(states, 2, 2, 2)
    with pytest.raises(ValueError, match="rank=0 must be at least 1"):
        dynamics.dmd(states, 0)


def test_r2_is_one_for_the_target_and_zero_for_its_mean():
    target = torch.randn(3, 2, 5, 4)
    mean = target.mean((0, 2), keepdim=True).expand_as(target)
    for weighted in (False, True):
        torch.testing.assert_close(dynamics.layer_r2(target, target, weighted), torch.ones(2, dtype=torch.double))
        assert dynamics.layer_r2(target, mean, weighted).abs().max() < 1e-6


@torch.no_grad()
def test_depth_probe_matches_the_official_one(golden, noise):
    case = golden("raptor_probe_depth")
    probe = DepthProbe(24, (3, 4), num_bins=16)
    probe.load_state_dict(case.state_dict())
    logits = probe(torch.from_numpy(noise("input:tokens", (2, 17, 24))))
    depth = 4 * torch.from_numpy(noise("input:depth", (2, 1, 30, 40))).abs()
    depth[:, :, :2] = 0
    depth[0, :, 5] = 11
    bins, valid = depth_to_bins(depth[:, 0], 16)
    loss = depth_loss(probe.depth(logits), depth, logits, bins)
    assert case.error("adabins_loss", loss.reshape(1)) < 5e-6
    found = {"depth_logits": logits, "depth_decoded": probe.depth(logits), "bin_edges": bin_edges(16), "bins": bins}
    found["valid"] = valid[:, None].float()
    found["center_padding"] = center_pad(torch.from_numpy(noise("input:pad", (1, 1, 30, 41))))
    large = 6 * torch.from_numpy(noise("input:bigdepth", (1, 1, 480, 640))).abs()
    found["eigen_mask"] = eigen_mask(large).float()
    for name, value in found.items():
        assert case.error(name, value) < 2e-6, name
    with pytest.raises(ValueError, match="NYUv2"):
        eigen_mask(depth)
    with pytest.raises(ValueError, match="3 x 4 patches, there are 12"):
        probe(torch.zeros(1, 12, 24))


def test_report_writes_numbers_and_figures(tmp_path, capsys):
    small = {"img_size": 32, "patch_size": 8, "depth": 5, "embed_dim": 24, "num_heads": 3}
    out = tmp_path / "report"
    common = ["--teacher", "vit_tiny_patch16_224", "--teacher-kwargs", json.dumps(small), "--out", str(out)]
    assert main(["raptor", "report", *common, "--limit", "20", "--phases", "2"]) == 0
    text = (out / "report.md").read_text()
    pictures = [line.split("(")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert len(pictures) == 8 and all((out / name).read_bytes()[:4] == b"\x89PNG" for name in pictures)
    numbers = json.loads((out / "report.json").read_text(), parse_constant=pytest.fail)
    assert len(numbers["boundaries"]) == 1 and len(numbers["teacher"]["speed"]["cls"]) == 5
    assert main(["raptor", "report", *common, "--limit", "1"]) == 2 and "must be at least 2" in capsys.readouterr().err
    assert (
        main(["raptor", "report", *common, "--phases", "9"]) == 2
        and "do not fit into 5 layers" in capsys.readouterr().err
    )
