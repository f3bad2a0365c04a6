"""Roll-outs of files: states in the container they came from, with its coordinates, and errors where truth is known."""

import importlib.util
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

from blockzoo.tasks.fields.containers import open_fields
from blockzoo.tasks.fields.rollouts import Horizon, history_of, predict_rollouts
from blockzoo.tasks.fields.trajectories import SelectedFile, Selection

_spec = importlib.util.spec_from_file_location("field_containers", Path(__file__).with_name("containers.py"))
containers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(containers)
LAYOUTS, SAMPLES, SIZE, TIMES, moving = (
    getattr(containers, name) for name in ("LAYOUTS", "SAMPLES", "SIZE", "TIMES", "moving")
)


class Mover(torch.nn.Module):
    """The exact model of `moving`: the newest state, moved by a point for each of the states it gives."""

    def __init__(self, state, history=1, constants=0, ahead=1, dims=2):
        super().__init__()
        self.state, self.newest, self.ahead = state, (history - 1) * state, ahead
        self.in_chans, self.out_chans, self.n_modes = history * state + constants, ahead * state, (4,) * dims
        self.register_buffer("input_mean", torch.zeros(self.in_chans))

    def forward(self, x):
        state = x[:, self.newest : self.newest + self.state]
        return torch.cat([state.roll(i, 2) for i in range(1, self.ahead + 1)], 1)


STATES = {"pdebench_arrays": (3, 0), "pdebench_groups": (2, 0), "pdebench_incompressible": (3, 2), "well": (3, 1)}
"""Channels of state and of constants; winds have 2 and 1."""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_states_come_back_in_the_same_container_with_coordinates(layout, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save, name = LAYOUTS[layout]
    path, _ = save(tmp_path / name)
    state, constants = STATES.get(layout, (2, 1))
    assert predict_rollouts(Mover(state, 2, constants), str(path), Horizon(8, 1), batch_size=2) == 0
    source, found = open_fields(path), open_fields(f"{path.stem}_predicted{path.suffix}")
    assert found.layout == source.layout and found.states == source.states and found.space == source.space
    assert (found.samples, found.times, found.size) == (SAMPLES, 8, SIZE)
    truth = moving(3, times=11)
    order = {"pdebench_incompressible": [2, 0, 1]}.get(layout, list(range(state)))
    for sample in range(SAMPLES):
        states = found.take(found.states, sample, slice(None))
        np.testing.assert_allclose(states, truth[sample, 3:, order].swapaxes(0, 1), atol=1e-5)
    for axis in source.space:
        if axis in source.coordinates:
            np.testing.assert_array_equal(found.coordinates[axis], source.coordinates[axis])
    times = source.coordinates["time"]
    np.testing.assert_array_equal(found.coordinates["time"][: TIMES - 3], times[3:])
    step = times[-1] - times[-2]
    beyond = found.coordinates["time"][TIMES - 3 :] - times[-1]
    if times.dtype.kind == "M":
        assert list(beyond) == [step * i for i in range(1, 5)]
    else:
        np.testing.assert_allclose(beyond, step * np.arange(1, 5), rtol=1e-5)


def test_attributes_go_along(tmp_path):
    wind, _ = LAYOUTS["netcdf"][0](tmp_path / "wind.nc")
    out = tmp_path / "next.nc"
    predict_rollouts(Mover(2, 1, 1), str(wind), Horizon(2), out=str(out))
    with xr.open_dataset(out, engine="h5netcdf") as found:
        assert found.attrs["title"] == "winds" and found["u"].attrs["units"] == "m s-1"
        assert found["u"].dims == ("member", "time", "lat", "lon")
    well, _ = LAYOUTS["well"][0](tmp_path / "waves.hdf5")
    out = tmp_path / "next.hdf5"
    predict_rollouts(Mover(3, 1, 1), str(well), Horizon(2, samples=1), out=str(out))
    with h5py.File(out) as found:
        assert found.attrs["n_spatial_dims"] == 2 and found.attrs["n_trajectories"] == 1
        assert found["t1_fields/velocity"].shape == (1, 2, *SIZE, 2)
        assert list(found["t0_fields"].attrs["field_names"]) == ["pressure"]
        assert found["boundary_conditions/x_PERIODIC"].attrs["bc_type"] == "PERIODIC"


def test_errors_are_given_where_the_truth_is_known(tmp_path, capsys):
    path, _ = LAYOUTS["pdebench_arrays"][0](tmp_path / "flow.hdf5")
    out = str(tmp_path / "out.hdf5")
    predict_rollouts(Mover(3, 1), str(path), Horizon(8, samples=2), out=out, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["shape"] == [2, 8, 3, *SIZE] and found["channels"] == ["Vx", "Vy", "density"]
    assert found["history"] == 1 and len(found["steps"]) == 8
    errors = [row["relative L2 error"] for row in found["steps"]]
    assert max(errors[:6]) < 1e-5 and errors[6:] == [None, None] and found["steps"][5]["VRMSE"] < 1e-5
    still = Mover(3, 1)
    still.forward = lambda x: x[:, :3]
    predict_rollouts(still, str(path), Horizon(6), out=out)
    text = capsys.readouterr().out
    assert "relative L2 error" in text and "3 samples of Vx, Vy, density, from 1 state(s) each" in text
    first = float(text.splitlines()[1].split()[2])
    assert first > 0.1


def test_several_states_at_once_and_strides(tmp_path):
    fields = moving(times=9)[:, :, 0]
    np.savez(tmp_path / "u.npz", u=fields, time=np.linspace(0, 4, 9))
    out = tmp_path / "out.npz"
    axes = "sample,time,x,y"
    predict_rollouts(Mover(1, 1, 0, ahead=3), str(tmp_path / "u.npz"), Horizon(7), axes=axes, out=str(out))
    with np.load(out) as found:
        np.testing.assert_allclose(found["u"], fields[:, 1:8], atol=1e-6)
        np.testing.assert_allclose(found["time"], np.linspace(0, 4, 9)[1:8])
    coarse = Selection(time_stride=2, space_stride=2)  # two instants are one point of the coarser grid
    predict_rollouts(Mover(1), str(tmp_path / "u.npz"), Horizon(4), coarse, axes, str(out))
    with np.load(out) as found:
        np.testing.assert_allclose(found["u"], fields[:, 2::2, ::2, ::2], atol=1e-6)


def test_points_outside_the_domain_have_no_values(tmp_path, capsys):
    sea = np.ones(SIZE, bool)
    sea[:, 0] = False
    values = np.where(sea, moving()[:, :, 0], np.nan)
    xr.Dataset({"ssh": (("member", "time", "y", "x"), values)}).to_netcdf(tmp_path / "sea.nc", engine="h5netcdf")
    out = tmp_path / "out.nc"
    selection = Selection(mask="nan")
    predict_rollouts(Mover(1, 1, 1), str(tmp_path / "sea.nc"), Horizon(3), selection, out=str(out), as_json=True)
    assert json.loads(capsys.readouterr().out)["steps"][2]["relative L2 error"] < 1e-5
    with xr.open_dataset(out, engine="h5netcdf") as found:
        np.testing.assert_allclose(found["ssh"].values, values[:, 1:4], atol=1e-5)


@pytest.mark.parametrize(
    ("model", "horizon", "out", "message"),
    [
        (Mover(2), Horizon(2), None, "fits none of its windows; see --fields"),
        (Mover(3, dims=3), Horizon(2), None, "has 2 axes of space .x, y., the model has 3"),
        (Mover(3, 2), Horizon(2, history=1), None, "--history 1 does not fit the model, .* hold 2 states"),
        (Mover(3), Horizon(2, start=7), None, "--start 7 and 1 states must lie within the 7 instants"),
        (Mover(3), Horizon(0), None, "--steps 0 must be at least 1"),
        (Mover(3), Horizon(2, samples=0), None, "--samples 0 must be at least 1"),
        (Mover(3), Horizon(2), "next.npz", "next.npz must end in .h5 or .hdf5"),
        (Mover(3), Horizon(2), "flow.hdf5", "is an input too"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, monkeypatch, model, horizon, out, message):
    monkeypatch.chdir(tmp_path)
    LAYOUTS["pdebench_arrays"][0](Path("flow.hdf5"))
    with pytest.raises(ValueError, match=message):
        predict_rollouts(model, "flow.hdf5", horizon, out=out)


def test_states_in_an_input_follow_from_the_channels(tmp_path):
    file = SelectedFile(open_fields(LAYOUTS["well"][0](tmp_path / "w.hdf5")[0]), Selection())
    assert history_of(Mover(3, 4, 1), file) == 4
    with pytest.raises(ValueError, match=r"3 channels of state \(pressure, .*, 1 of constants and mask \(depth\)"):
        history_of(Mover(3, 1, 0), file)


def test_nothing_is_written_into_an_input(tmp_path):
    path, _ = LAYOUTS["zarr"][0](tmp_path / "wind.zarr")
    with pytest.raises(ValueError, match=r"--out .*next.zarr is inside the input .*wind.zarr"):
        predict_rollouts(Mover(2, 1, 1), str(path), Horizon(2), out=str(path / "next.zarr"))
    assert not (path / "next.zarr").exists()


@pytest.mark.parametrize("layout", ["pdebench_arrays", "netcdf"])
def test_an_earlier_file_stays_if_writing_fails(layout, tmp_path, monkeypatch):
    save, name = LAYOUTS[layout]
    path, _ = save(tmp_path / name)
    out = tmp_path / f"out{path.suffix}"
    out.write_bytes(b"earlier")
    state, constants = STATES.get(layout, (2, 1))
    monkeypatch.setattr("h5py.Group.__setitem__", lambda *_: 1 / 0)
    monkeypatch.setattr("xarray.Dataset.to_netcdf", lambda _, place, **__: place.write_bytes(b"half") / 0)
    with pytest.raises(ZeroDivisionError):
        predict_rollouts(Mover(state, 1, constants), str(path), Horizon(2), out=str(out))
    assert out.read_bytes() == b"earlier" and len(list(tmp_path.iterdir())) == 2
