"""Multi-grid patches: what a patch sees, stitching, boundaries, and patches spread over processes."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

from blockzoo.layers import MultigridPatching

GOLDEN = ["mg_patch_l1", "mg_patch_l1_pad", "mg_patch_l2", "fno_mgpatch_l1_rect", "fno_mgpatch_l2_bigpad"]


@pytest.mark.parametrize("name", GOLDEN)
def test_patches_are_the_published_ones(golden, name):
    case = golden(name)
    patching = MultigridPatching(**case.meta["kwargs"])
    x = case.image()
    patches = patching.patch(x)
    assert case.error("patches", patches) == 0
    assert torch.equal(patching.stitch(patches[:, : x.shape[1]]), x)


@pytest.mark.parametrize("boundary", ["circular", "zeros", "reflect", "replicate"])
@pytest.mark.parametrize("fraction", [0.0, 0.1, [0.25, 0.0]])
@pytest.mark.parametrize(("size", "levels"), [((8, 12), 0), ((12, 8), 1), ((16, 24), 3), ((20, 12), 2)])
def test_stitching_undoes_patching(size, levels, fraction, boundary):
    patching = MultigridPatching(levels, fraction, boundary=boundary)
    x = torch.randn(2, 3, *size)
    patches = patching.patch(x)
    parts = 2**levels
    padded = [n // parts + 2 * p for n, p in zip(size, patching.padding(size), strict=True)]
    assert patches.shape == (2 * parts**2, 3 * (levels + 1), *padded)
    assert torch.equal(patching.stitch(patches[:, :3], size), x)
    assert torch.equal(patching.stitch(patching.crop(patches[:, :3], size), size), x)


@pytest.mark.parametrize("dims", [1, 3])
def test_one_and_three_dimensions(dims):
    patching = MultigridPatching(1, 0.25)
    x = torch.randn(2, 2, *[8] * dims)
    patches = patching.patch(x)
    assert patches.shape == (2 * 2**dims, 4, *[8] * dims)
    assert torch.equal(patching.stitch(patches[:, :2]), x)


def test_the_last_level_without_padding_covers_the_whole_field():
    x = torch.arange(64.0).reshape(1, 1, 64)
    patches = MultigridPatching(3).patch(x)
    assert patches.shape == (8, 4, 8)
    for patch in patches:
        assert sorted((patch[3] // 8).tolist()) == list(range(8))  # one point of every eighth


@pytest.mark.parametrize(("n", "levels"), [(64, 3), (64, 4), (24, 2), (20, 2), (12, 2)])
def test_every_level_is_centred_on_the_patch(n, levels):
    """Also where the published helper is half a coarse point off, or fails."""
    position = torch.arange(float(n)).reshape(1, 1, n)
    for i, patch in enumerate(MultigridPatching(levels).patch(position)):
        s = n >> levels
        for level, view in enumerate(patch):
            step = 2**level
            first = view[0].item()
            expected = [(first + step * j) % n for j in range(s)]
            assert view.tolist() == expected
            offset = first + (s - 1) * step / 2 - (i * s + (s - 1) / 2)
            assert abs((offset + n / 2) % n - n / 2) <= step / 2


@pytest.mark.parametrize(
    ("boundary", "expected"),
    [
        ("circular", [2, 3, 0, 1, 2, 3, 0, 1]),
        ("zeros", [0, 0, 0, 1, 2, 3, 0, 0]),
        ("reflect", [2, 1, 0, 1, 2, 3, 2, 1]),
        ("replicate", [0, 0, 0, 1, 2, 3, 3, 3]),
    ],
)
def test_what_lies_beyond_the_border(boundary, expected):
    x = torch.arange(4.0).reshape(1, 1, 4)
    assert MultigridPatching(0, 0.5, boundary=boundary).patch(x).flatten().tolist() == expected


def test_lowpass_removes_what_a_coarser_grid_cannot_resolve(waves):
    n = 32
    slow, fast = waves((n,), 2)[..., 0][:, None], torch.cos(2 * torch.pi * 14 * torch.arange(n).double() / n)
    patching = MultigridPatching(2, 0.0, lowpass=True)
    views, clean = patching.patch(slow + fast), MultigridPatching(2).patch(slow)
    torch.testing.assert_close(views[:, 2], clean[:, 2])
    torch.testing.assert_close(views[:, 0], MultigridPatching(2).patch(slow + fast)[:, 0])


def test_random_patches_lie_where_the_target_is():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 16, 24)
    for boundary in ("circular", "zeros"):
        patching = MultigridPatching(1, 0.125, boundary=boundary)
        starts = set()
        for _ in range(20):
            start, target = patching.random_patch(x, generator)
            starts.add(tuple(start))
            assert torch.equal(patching.crop(patching.patch_at(x, start), x.shape[2:])[:, :3], target)
            assert boundary == "circular" or all(i <= n // 2 for i, n in zip(start, (16, 24), strict=True))
        assert len({i for i, _ in starts}) > 3 and len({j for _, j in starts}) > 3
    assert torch.equal(patching.patch_at(x, (0, 12)), patching.patch(x)[[1, 5]])


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match="levels=-1 must not be negative"):
        MultigridPatching(-1)
    with pytest.raises(ValueError, match="boundary='wrap' must be one of"):
        MultigridPatching(1, boundary="wrap")
    with pytest.raises(ValueError, match="padding_fraction=-0.1"):
        MultigridPatching(1, -0.1)
    with pytest.raises(ValueError, match=r"must be divisible by 2 \*\* levels = 4"):
        MultigridPatching(2).patch(torch.ones(1, 1, 8, 6))
    with pytest.raises(ValueError, match="3 patches must be a multiple of 4"):
        MultigridPatching(1).stitch(torch.ones(3, 1, 4, 4))


def _loaded(path):
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WORKER = Path(__file__).with_name("patches_worker.py")
worker = _loaded(WORKER)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_patches_spread_over_processes_give_the_loss_and_gradients_of_one(world, tmp_path):
    """12 patches of 3 samples; and data-parallel averaging gives the same gradients."""
    model = worker.make()
    loss, of_x = worker.loss_and_input_gradient(model)
    grads = [parameter.grad for parameter in model.parameters()]
    out = tmp_path / "found.pt"
    command = [sys.executable, str(WORKER)]
    running = [
        subprocess.Popen([*command, str(rank), str(world), str(tmp_path / "store"), str(out)]) for rank in range(world)
    ]
    assert [process.wait(timeout=120) for process in running] == [0] * world
    found = torch.load(out, weights_only=True)
    for ours, one in zip(found, [loss, of_x, *grads, *grads], strict=True):
        torch.testing.assert_close(ours, one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("step", [1, 5])
def test_patches_in_turn_give_the_same_loss_and_gradients(step):
    whole, parts = worker.make(), worker.make(step=step)
    pairs = zip(worker.loss_and_input_gradient(parts), worker.loss_and_input_gradient(whole), strict=True)
    for ours, one in pairs:
        torch.testing.assert_close(ours, one)
    for ours, one in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, one.grad)
