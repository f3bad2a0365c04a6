"""The solver of the vorticity equation against exact solutions, and data sets made by it."""

import math

import pytest
import torch

from blockzoo.__main__ import main
from blockzoo.checkpoints import load_state_dict
from blockzoo.tasks.fields import solver as navier_stokes
from blockzoo.tasks.fields.files import FieldFiles
from blockzoo.tasks.fields.pairs import NavierStokes
from blockzoo.tasks.fields.solver import (
    NavierStokesSettings,
    generate,
    random_forcing,
    solve_vorticity,
)

SHORT = NavierStokesSettings(size=64, final_time=0.1)


def points(n):
    x = torch.arange(n, dtype=torch.double) * 2 * math.pi / n
    return torch.meshgrid(x, x, indexing="ij")


def start(n, batch=1):
    """A smooth vorticity that is no exact solution."""
    x, y = points(n)
    w = torch.sin(x) * torch.cos(2 * y) + 0.5 * torch.cos(3 * x + y) + torch.sin(2 * x - y)
    return w.expand(batch, n, n)


def solve(w, **kwargs):
    return solve_vorticity(torch.zeros_like(w), initial=w, **kwargs)[:, -1]


@pytest.mark.parametrize("k", [1, 3])
def test_taylor_green_vortices_decay_as_they_should(k):
    x, y = points(32)
    w = (2 * k * torch.cos(k * x) * torch.cos(k * y))[None]
    times = (0.5, 2.0)
    found = solve_vorticity(torch.zeros_like(w), reynolds=20, times=times, initial=w)
    exact = torch.stack([w * math.exp(-2 * k**2 * t / 20) for t in times], 1)
    assert float((found - exact).abs().max()) < 1e-11


def test_forced_shear_flow_grows_to_its_laminar_state():
    _, y = points(32)
    forcing = torch.cos(4 * y)[None]
    (found,) = solve_vorticity(forcing, reynolds=10, times=(3.0,))[0]
    exact = 10 / 16 * (1 - math.exp(-16 * 3 / 10)) * torch.cos(4 * y)
    assert float((found - exact).abs().max()) < 1e-6


def test_axes_mean_what_the_equation_says():
    # du/dt of the velocity follows from psi; a transposed and negated vorticity is the mirrored flow.
    w = start(32)
    mirrored = solve(-w.transpose(1, 2), reynolds=50, times=(1.0,))
    assert torch.allclose(mirrored, -solve(w, reynolds=50, times=(1.0,)).transpose(1, 2), atol=1e-12)
    # One small step in the direction that finite differences give.
    x, y = points(64)
    a = torch.sin(x) + torch.cos(2 * y)  # psi = sin x + cos(2 y) / 4; u = -sin(2 y) / 2, v = -cos x
    slope = -(-0.5 * torch.sin(2 * y) * torch.cos(x) + -torch.cos(x) * -2 * torch.sin(2 * y))
    moved = solve(a[None], reynolds=1e12, times=(1e-4,))[0]
    assert torch.allclose((moved - a) / 1e-4, slope, atol=1e-3)


def test_error_falls_exponentially_with_the_grid():
    options = {"reynolds": 20.0, "times": (0.5,), "cfl": 0.2, "max_step": 0.01}
    exact = solve(start(96), **options)
    errors = [float((solve(start(n), **options) - exact[:, :: 96 // n, :: 96 // n]).abs().max()) for n in (24, 32, 48)]
    assert errors[0] > 15 * errors[1] > 1500 * errors[2]  # by orders 10 and 12, and rising
    assert errors[2] < 1e-6


def test_time_steps_are_of_fourth_order():
    def at(step):
        return solve(start(24), reynolds=40, times=(0.8,), cfl=100, max_step=step)

    exact = at(0.00625)
    errors = [float((at(step) - exact).abs().max()) for step in (0.1, 0.05)]
    assert 12 < errors[0] / errors[1] < 20


def test_energy_and_enstrophy_are_kept_without_viscosity_and_lost_with_it():
    def budget(w):
        k = torch.fft.fftfreq(64, 1 / 64, dtype=torch.double)
        squared = k[:, None] ** 2 + k**2
        power = torch.fft.fft2(w[0], norm="forward").abs() ** 2
        return float((power / squared.clamp(min=1)).sum()), float(power.sum())

    w = start(64)
    energy, enstrophy = budget(w)
    kept = budget(solve(w, reynolds=1e14, times=(1.0,), cfl=0.3))
    assert kept == pytest.approx((energy, enstrophy), rel=1e-6)
    step = 1e-3
    lost = budget(solve(w, reynolds=10, times=(step,)))[0]
    assert (energy - lost) / step == pytest.approx(2 * enstrophy / 10, rel=2e-3)  # dE/dt = -2 (enstrophy) / Re


def test_single_precision_is_close_to_double():
    forcing = random_forcing([0, 1], 64)
    double = solve_vorticity(forcing, times=(1.0,))
    single = solve_vorticity(forcing.float(), times=(1.0,))
    assert single.dtype == torch.float32
    assert float((single - double).norm() / double.norm()) < 1e-4


def test_a_forcing_is_one_function_on_every_grid_and_by_its_number():
    coarse, fine = random_forcing([3], 64, seed=5), random_forcing([3], 192, seed=5)
    assert torch.allclose(coarse, fine[:, ::3, ::3], atol=1e-12)
    many = random_forcing(range(40), 64, seed=5)
    assert torch.equal(many[3:4], coarse)
    assert abs(float(many.mean())) < 1e-12
    assert float(many.std()) == pytest.approx(0.97, abs=0.1)
    assert not torch.allclose(random_forcing([3], 64, seed=6), coarse)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"times": ()}, "times=.* must increase from above 0"),
        ({"times": (2.0, 1.0)}, "times=.* must increase from above 0"),
        ({"reynolds": 0}, "reynolds=0, .* must be positive"),
        ({"cfl": -1}, "cfl=-1 .* must be positive"),
    ],
)
def test_numbers_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        solve_vorticity(torch.zeros(1, 64, 64), **options)


def test_grids_out_of_range_are_named():
    with pytest.raises(ValueError, match=r"\(1, 63, 63\) must be \(B, n, n\) with an even n"):
        solve_vorticity(torch.zeros(1, 63, 63))
    with pytest.raises(ValueError, match="size=32 must be at least 64"):
        random_forcing([0], 32)
    with pytest.raises(ValueError, match="dtype='float16'"):
        NavierStokesSettings(dtype="float16")
    with pytest.raises(ValueError, match="first=7 a multiple of 20"):
        generate(1, SHORT, first=7)


def test_a_step_too_large_is_reported():
    with pytest.raises(FloatingPointError, match="not finite at time .*; use a smaller cfl than 1000"):
        solve_vorticity(50 * random_forcing([0], 64), times=(50.0,), cfl=1000, max_step=1.0)


def test_a_data_set_is_made_once_and_always_the_same(tmp_path, monkeypatch):
    first = generate(25, SHORT, cache_dir=tmp_path / "a", progress=False)
    assert first["forcing"].shape == (25, 64, 64) and first["vorticity"].shape == (25, 1, 64, 64)
    again = generate(25, SHORT, cache_dir=tmp_path / "b", progress=False)
    assert all(torch.equal(first[key], again[key]) for key in first)
    monkeypatch.setattr(navier_stokes, "solve_vorticity", None)  # nothing is solved from here on
    fewer = generate(5, SHORT, cache_dir=tmp_path / "a")
    assert torch.equal(fewer["vorticity"], first["vorticity"][:5])
    tail = generate(5, SHORT, first=20, cache_dir=tmp_path / "a")
    assert torch.equal(tail["forcing"], first["forcing"][20:])


def test_an_interrupted_command_goes_on_where_it_stopped(tmp_path, monkeypatch):
    calls = []

    def interrupted(*args, **kwargs):
        calls.append(len(args[0]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return solve_vorticity(*args, **kwargs)

    monkeypatch.setattr(navier_stokes, "solve_vorticity", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(60, SHORT, cache_dir=tmp_path, progress=False)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert [path.name for path in folder.iterdir()] == ["00000.safetensors"]
    before = (folder / "00000.safetensors").read_bytes()
    assert len(generate(60, SHORT, cache_dir=tmp_path, progress=False)["forcing"]) == 60
    assert calls == [20] * 4
    assert (folder / "00000.safetensors").read_bytes() == before


def test_other_settings_are_another_data_set():
    names = {SHORT.name}
    for change in ({"seed": 1}, {"amplitude": 5.0}, {"dtype": "float32"}, {"steps": 2}, {"cfl": 0.5}, {"streams": 1}):
        names.add(NavierStokesSettings(**{**SHORT, **change}).name)
    assert len(names) == 7


def test_no_field_of_a_seed_is_one_of_another():
    later = random_forcing([1_000_003, 1_000_004], 64, seed=0)
    assert not torch.allclose(later, random_forcing([0, 1], 64, seed=1))
    # Data of blockzoo 0.1 can be made again, with their faults and under their old name.
    assert torch.equal(random_forcing([1_000_003], 64, seed=0, streams=1), random_forcing([0], 64, seed=1, streams=1))
    assert NavierStokesSettings(streams=1).name == "re500_128_5270f807d098"
    with pytest.raises(ValueError, match="streams=3 must be 1 or 2"):
        random_forcing([0], 64, streams=3)
    with pytest.raises(ValueError, match="seed=-1"):
        random_forcing([0], 64, seed=-1)


def test_outputs_are_checked_before_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(navier_stokes, "solve_vorticity", None)
    for out, message in (("nosuch/flow.safetensors", "no folder"), ("flow.npz", "must end in .safetensors")):
        assert main(["science", "navier-stokes", "--count", "20", "--out", str(tmp_path / out)]) == 2
        assert message in capsys.readouterr().err


def test_the_command_shows_progress_and_writes_a_file_that_trainings_read(tmp_path, capsys):
    out = tmp_path / "flow.safetensors"
    options = ["--count", "20", "--size", "64", "--final-time", "0.05", "--dtype", "float32"]
    assert main(["science", "navier-stokes", *options, "--cache-dir", str(tmp_path), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "vorticity (20, 1, 64, 64)" in printed.out
    assert "solving Navier-Stokes: 100%" in printed.err
    data = FieldFiles(path=str(out), val_fraction=0.25)
    data.setup("fit")
    assert (data.size, data.channels, len(data.datasets["val"])) == ((64, 64), (1, 1), 5)
    assert torch.equal(data.datasets["train"][0]["x"][0], load_state_dict(out)["x"][0, 0])


@pytest.fixture
def flow(tmp_path):
    def make(**kwargs):
        options = {"size": 64, "train_size": 20, "val_size": 20, "test_size": 20, "final_time": 0.1}
        data = NavierStokes(**options, cache_dir=str(tmp_path), **kwargs)
        data.prepare_data()
        data.setup("fit")
        return data

    return make


def test_parts_are_different_samples_and_finer_grids_the_same_functions(flow):
    data = flow(test_grids=[2])
    train, val = data.datasets["train"].arrays, data.datasets["val"].arrays
    assert not torch.allclose(train["x"], val["x"])
    coarse, fine = (next(iter(loader)) for loader in data.test_dataloader())
    assert coarse["x"].shape == (8, 1, 64, 64) and fine["y"].shape == (8, 1, 128, 128)
    assert torch.allclose(coarse["x"], fine["x"][..., ::2, ::2], atol=1e-6)
    assert torch.allclose(coarse["y"], fine["y"][..., ::2, ::2], atol=1e-3)


def test_steps_lead_from_one_instant_to_the_next(flow):
    data = flow(steps=2)
    train = data.datasets["train"].arrays
    assert train["x"].shape == (40, 2, 64, 64) and train["y"].shape == (40, 1, 64, 64)
    assert not train["x"][0, 0].any()  # at rest
    assert torch.equal(train["x"][1, 0], train["y"][0, 0])
    assert torch.equal(train["x"][0, 1], train["x"][1, 1])  # the forcing
    test = data.datasets["test"].arrays
    assert test["trajectory"].shape == (20, 2, 1, 64, 64)
    assert torch.equal(test["trajectory"][:, 0], test["y"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 0}, "train_size=0 must be from 1 to 500000"),
        ({"test_size": -1}, "test_size=-1 not negative"),
        ({"test_grids": [1]}, r"test_grids=\[1\] must be multiples of size"),
        ({"steps": 0}, "steps=0 must be positive"),
    ],
)
def test_wrong_parts_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        NavierStokes(**options)
