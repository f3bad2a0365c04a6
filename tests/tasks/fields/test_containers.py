"""Files of other programs: axes, values, coordinates, and what is wrong with them."""

import importlib.util
import json
import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

from blockzoo.tasks.fields.containers import open_fields, parse_axes
from blockzoo.tasks.fields.files import read_fields
from blockzoo.tasks.fields.trajectories import FieldTrajectories

_spec = importlib.util.spec_from_file_location("field_containers", Path(__file__).with_name("containers.py"))
containers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(containers)
LAYOUTS, SAMPLES, SIZE, TIMES, moving = (
    getattr(containers, name) for name in ("LAYOUTS", "SAMPLES", "SIZE", "TIMES", "moving")
)


def write(layout, folder):
    save, name = LAYOUTS[layout]
    return save(folder / name)


NAMES = {
    "pdebench_arrays": ["Vx", "Vy", "density"],
    "pdebench_groups": ["data_0", "data_1"],
    "pdebench_incompressible": ["particles", "velocity_0", "velocity_1"],
    "well": ["pressure", "velocity_x", "velocity_y"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_with_its_axes(layout, tmp_path):
    path, fields = write(layout, tmp_path)
    file = open_fields(path)
    assert (file.samples, file.times, file.size) == (SAMPLES, TIMES, SIZE)
    assert file.space == (("lat", "lon") if "wind" in str(path) or "old" in str(path) else ("x", "y"))
    assert file.components(file.states) == NAMES.get(layout, ["u", "v"])
    assert len(file.coordinates["time"]) == TIMES
    for sample in range(SAMPLES):
        np.testing.assert_array_equal(file.take(file.states, sample, slice(2, 5)), fields[sample, 2:5])
    coarse = file.take(file.states, 1, slice(0, TIMES, 3), stride=2)
    np.testing.assert_array_equal(coarse, fields[1, ::3, :, ::2, ::2])


def test_constants_masks_and_boundaries(tmp_path):
    file = open_fields(write("well", tmp_path)[0])
    island = "boundary_conditions/island/mask"
    assert file.constants == ["depth", island] and file.periodic == {"x": True, "y": False}
    depth = file.take(["depth"], 2, slice(0, 1))
    np.testing.assert_array_equal(depth[0, 0], np.broadcast_to(np.arange(SIZE[1]), SIZE))
    force = open_fields(write("pdebench_incompressible", tmp_path)[0])
    assert force.constants == ["force"] and force.components(["force"]) == ["force_0", "force_1"]
    wind = open_fields(write("netcdf", tmp_path)[0])
    assert wind.constants == ["orography"]  # and the series of global means is no field


def test_only_what_is_asked_for_is_read(tmp_path):
    path, fields = write("pdebench_arrays", tmp_path)
    file = open_fields(path)
    asked = []
    original = h5py.Dataset.__getitem__

    def record(self, index):
        asked.append(index)
        return original(self, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(h5py.Dataset, "__getitem__", record)
        file.take(["Vx"], 2, slice(3, 4))
    assert asked == [(2, slice(3, 4), slice(None, None, 1), slice(None, None, 1))]
    again = pickle.loads(pickle.dumps(file))  # as workers get it
    np.testing.assert_array_equal(again.take(["Vx"], 2, slice(3, 4)), fields[2, 3:4, :1])


def test_axes_can_be_named_and_renamed(tmp_path):
    fields = moving()[:, :, 0]
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["run/u"] = fields.transpose(0, 2, 3, 1)  # (sample, x, y, time), as older MATLAB sets have it
        file["bottom"] = fields[:, 0]
    opened = open_fields(tmp_path / "mine.h5", "sample,x,y,time")
    assert opened.states == ["run/u"] and opened.constants == ["bottom"]
    np.testing.assert_array_equal(opened.take(["run/u"], 1, slice(2, 4))[:, 0], fields[1, 2:4])
    np.savez(tmp_path / "mine.npz", u=fields, time=np.arange(TIMES))
    assert open_fields(tmp_path / "mine.npz", "sample,time,x,y").coordinates["time"].tolist() == list(range(TIMES))
    data = xr.Dataset({"u": (("run_id", "step_no", "a", "b"), fields)})
    data.to_netcdf(tmp_path / "odd.nc", engine="h5netcdf")
    renamed = open_fields(tmp_path / "odd.nc", "run_id=sample,step_no=time")
    assert (renamed.samples, renamed.times, renamed.space) == (SAMPLES, TIMES, ("a", "b"))


@pytest.mark.parametrize("text", ["sample,member=time", "x,x", "a=sample,b=sample", "=time"])
def test_axes_that_mean_nothing_are_named(text):
    with pytest.raises(ValueError, match="must name the axes in their order"):
        parse_axes(text)


def test_files_that_do_not_say_their_axes_are_named(tmp_path):
    with h5py.File(tmp_path / "u.h5", "w") as file:
        file["u"] = np.zeros((2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"u.h5 does not say what its axes are; .* It has u \(2, 3, 4, 4\)"):
        open_fields(tmp_path / "u.h5")
    with pytest.raises(ValueError, match="no array has the 5 axes"):
        open_fields(tmp_path / "u.h5", "sample,time,x,y,z")
    with pytest.raises(ValueError, match="has no variable 'v'; it has u"):
        open_fields(tmp_path / "u.h5", "sample,time,x,y").variable("v")
    (tmp_path / "broken.h5").write_bytes(b"no file of HDF5")
    with pytest.raises(ValueError, match="broken.h5 cannot be read as .h5"):
        open_fields(tmp_path / "broken.h5")
    (tmp_path / "broken.nc").write_bytes(b"no file of NetCDF")
    with pytest.raises(ValueError, match="broken.nc cannot be read as .nc"):
        open_fields(tmp_path / "broken.nc")
    (tmp_path / "empty.nc").write_bytes(b"")
    with pytest.raises(ValueError, match="empty.nc cannot be read as .nc"):
        open_fields(tmp_path / "empty.nc")
    xr.Dataset({"u": (("time", "x"), np.ones((3, 4)))}).to_netcdf(tmp_path / "damaged.nc", engine="scipy")
    content = bytearray((tmp_path / "damaged.nc").read_bytes())
    content[content.index(b"u\0\0\0") + 15] = 9  # the number of its second dimension, of which there are two
    (tmp_path / "damaged.nc").write_bytes(content)
    with pytest.raises(ValueError, match="damaged.nc cannot be read as .nc"):
        open_fields(tmp_path / "damaged.nc")
    h5py.File(tmp_path / "nothing.h5", "w").close()
    with pytest.raises(ValueError, match="nothing.h5 does not say what its axes are; .* It has no array"):
        open_fields(tmp_path / "nothing.h5")
    with pytest.raises(FileNotFoundError, match="no file"):
        open_fields(tmp_path / "none.zarr")


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_pairs_are_read_by_their_names(tmp_path, suffix):
    a, u = moving()[:, 0], moving(2)[:, 1]
    data = xr.Dataset({"a": (("x", "y", "time"), a[:, 0].transpose(1, 2, 0)), "u": (("time", "channel", "x", "y"), u)})
    path = tmp_path / f"pairs{suffix}"
    data.to_zarr(path, consolidated=False) if suffix == ".zarr" else data.to_netcdf(path, engine="h5netcdf")
    found = read_fields(path, keys={"x": "a", "y": "u"})
    assert torch.equal(found["x"], torch.from_numpy(a)) and torch.equal(found["y"], torch.from_numpy(u))


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_pairs_that_unpack_to_more_than_they_mean_are_refused(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("blockzoo.tasks.core.stored._SMALL", 2**16)
    data = xr.Dataset({"x": (("sample", "a", "b"), np.zeros((8, 512, 512)))})
    path = tmp_path / f"zeros{suffix}"
    if suffix == ".zarr":
        data.to_zarr(path, consolidated=False)
    else:
        data.to_netcdf(path, engine="h5netcdf", encoding={"x": {"zlib": True, "complevel": 9}})
    with pytest.raises(ValueError, match="x would unpack from .* to 16,777,216 bytes"):
        read_fields(path, ("x",))


@pytest.mark.parametrize("where", ["compressor", "filters", "codecs"])
def test_stores_whose_codecs_run_code_are_refused(tmp_path, where):
    path, version = tmp_path / "u.zarr", 3 if where == "codecs" else 2
    xr.Dataset({"u": (("time", "x"), np.ones((2, 4), np.float32))}).to_zarr(
        path, consolidated=False, zarr_format=version
    )
    file = path / "u" / ("zarr.json" if version == 3 else ".zarray")
    metadata = json.loads(file.read_text(encoding="utf-8"))
    codec = {"id": "pickle", "protocol": 4} if version == 2 else {"name": "numcodecs.pickle", "configuration": {}}
    metadata[where] = codec if where == "compressor" else [codec]
    open_fields(path)
    file.write_text(json.dumps(metadata), encoding="utf-8")
    with pytest.raises(ValueError, match=f"{file.name} names the codec '(numcodecs.)?pickle', which could run code"):
        open_fields(path)
    with pytest.raises(ValueError, match="which could run code"):
        read_fields(path, keys={"x": "u", "y": "u"})
    file.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(ValueError, match=f"{file.name} is not metadata of Zarr"):
        open_fields(path)


def evil_array(folder):
    """A Zarr array of version 2 whose compressor unpickles; gives its metadata."""
    xr.Dataset({"u": (("time", "x"), np.ones((2, 4), np.float32))}).to_zarr(folder, consolidated=False, zarr_format=2)
    file = folder / "u" / ".zarray"
    metadata = json.loads(file.read_text(encoding="utf-8")) | {"compressor": {"id": "pickle"}}
    file.write_text(json.dumps(metadata), encoding="utf-8")
    return metadata


def test_stores_do_not_hide_codecs(tmp_path):
    metadata = evil_array(tmp_path / "other")
    path = tmp_path / "linked.zarr"
    xr.Dataset({"v": (("time", "x"), np.ones((2, 4), np.float32))}).to_zarr(path, consolidated=False, zarr_format=2)
    open_fields(path)
    (path / "u").symlink_to(tmp_path / "other" / "u")
    with pytest.raises(ValueError, match=r"linked.zarr.u is a link; a store must hold its arrays itself"):
        open_fields(path)
    path = tmp_path / "named.zarr"  # a summary in which the array has the name that users' attributes have
    path.mkdir()
    summary = {"kind": "inline", "must_understand": False, "metadata": {"attributes": metadata}}
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}, "consolidated_metadata": summary}
    (path / "zarr.json").write_text(json.dumps(group), encoding="utf-8")
    with pytest.raises(ValueError, match="zarr.json names the codec 'pickle'"):
        open_fields(path)
    (path / "zarr.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="zarr.json is not metadata of Zarr"):
        open_fields(path)
    attributes = {**group, "attributes": {"filters": "none"}, "consolidated_metadata": None}  # words of the user
    (path / "zarr.json").write_text(json.dumps(attributes), encoding="utf-8")
    with pytest.raises(ValueError, match="named.zarr holds no array of numbers"):
        open_fields(path)


@pytest.mark.parametrize("kind", ["link", "storage", "virtual"])
def test_hdf5_files_that_take_values_from_other_files_are_refused(tmp_path, kind):
    values = np.arange(48, dtype=np.float32).reshape(1, 3, 4, 4)
    other = tmp_path / "other"
    with h5py.File(other, "w") as file:
        file["u"] = values
    path, own = tmp_path / "u.h5", tmp_path / "own.h5"
    with h5py.File(own, "w") as file:
        file["t-coordinate"], file["x-coordinate"], file["y-coordinate"] = np.arange(3), np.arange(4), np.arange(4)
        layout = h5py.VirtualLayout(values.shape, values.dtype)
        layout[...] = h5py.VirtualSource(".", "own", values.shape)
        file["own"] = values
        file.create_virtual_dataset("same", layout)
        file["soft"] = h5py.SoftLink("/own")
    shutil.copy(own, path)
    found = open_fields(own)  # links within the file are its own
    assert found.states == ["own", "same", "soft"]
    np.testing.assert_array_equal(found.take(["same"], 0, slice(None)), values.swapaxes(0, 1))
    with h5py.File(path, "a") as file:
        if kind == "link":
            file["u"] = h5py.ExternalLink(str(other), "u")
        elif kind == "storage":
            file.create_dataset("u", values.shape, "f4", external=[(str(other), 0, values.nbytes)])
        else:
            layout = h5py.VirtualLayout(values.shape, values.dtype)
            layout[...] = h5py.VirtualSource(str(other), "u", values.shape)
            file.create_virtual_dataset("u", layout)
    message = r"u takes its values from another file, .*other; copy them into this one"
    with pytest.raises(ValueError, match=f"u.h5 cannot be read as .h5: {message}"):
        open_fields(path)
    with pytest.raises(ValueError, match=f"u.h5 cannot be read as .h5: {message}"):
        read_fields(path, ("x",), {"x": "u"})
    path.rename(tmp_path / "u.nc")
    with pytest.raises(ValueError, match=f"u.nc cannot be read as .nc: {message}"):
        open_fields(tmp_path / "u.nc")


@pytest.mark.parametrize("layout", ["pdebench_arrays", "zarr"])
def test_damaged_pieces_are_named(tmp_path, layout):
    path, _ = write(layout, tmp_path)
    if layout == "zarr":
        name, chunk = "u", path / "u" / "c" / "1" / "0" / "0" / "0"
        assert chunk.exists()
        chunk.write_bytes(b"damaged")
    else:
        name = "Vx"
        with h5py.File(path, "a") as file:
            file[name].id.write_direct_chunk((1, 0, 0, 0), b"damaged")
    file = open_fields(path)
    assert file.take([name], 0, slice(0, 2)).shape == (2, 1, *SIZE)
    with pytest.raises(ValueError, match=f"{path.name}: {name} cannot be read: "):
        file.take([name], 1, slice(0, 2))


def made(path, **options):
    data = FieldTrajectories(str(path), **options)
    data.setup("fit")
    return data


def test_windows_hold_states_then_constants(tmp_path):
    path, fields = write("well", tmp_path)
    data = made(path, steps_in=2, steps_out=3, val_fraction=0.34)
    assert data.channels == (2 * 3 + 1, 3 * 3) and data.size == SIZE and data.vectors == {}
    assert len(data.datasets["train"]) == 2 * (TIMES - 4) and len(data.datasets["val"]) == TIMES - 4
    item = data.datasets["train"][TIMES - 4 + 1]  # the second window of the second sample
    np.testing.assert_array_equal(item["x"][:6], fields[1, 1:3].reshape(6, *SIZE))
    np.testing.assert_array_equal(item["x"][6], np.broadcast_to(np.arange(SIZE[1]), SIZE))
    np.testing.assert_array_equal(item["y"], fields[1, 3:6].reshape(9, *SIZE))
    np.testing.assert_array_equal(data.datasets["val"][0]["y"], fields[2, 2:5].reshape(9, *SIZE))
    assert data.field_names[:4] == ["pressure_1", "velocity_x_1", "velocity_y_1", "pressure_2"]
    assert made(path).vectors == {"velocity": [1, 2]}


def test_one_long_sample_is_split_in_time_without_overlap(tmp_path):
    fields = moving(samples=1, times=20)
    data = xr.Dataset({"u": (("time", "x", "y"), fields[0, :, 0])})
    data.to_netcdf(tmp_path / "long.nc", engine="h5netcdf")
    found = made(tmp_path / "long.nc", val_fraction=0.25, steps_in=2)
    assert (len(found.datasets["train"]), len(found.datasets["val"])) == (15 - 2, 5 - 2)
    np.testing.assert_array_equal(found.datasets["val"][0]["x"], fields[0, 15:17, 0])
    with pytest.raises(ValueError, match="leaves 2 for validation, fewer than a window of 3"):
        made(tmp_path / "long.nc", val_fraction=0.1, steps_in=2)


def test_statistics_are_those_of_the_training_part(tmp_path):
    path, fields = write("pdebench_incompressible", tmp_path)
    data = made(path, steps_in=2, val_fraction=0.34)
    found = data.statistics
    train = torch.from_numpy(fields[:2]).double().transpose(1, 2).transpose(0, 1).flatten(1)
    torch.testing.assert_close(found["input_mean"][:6], train.mean(1).repeat(2).float())
    torch.testing.assert_close(found["output_std"], train.std(1).float())
    assert found["input_mean"].shape == (8,) and data.channels == (8, 3)


def masked(tmp_path, where=True):
    fields = moving()
    sea = np.ones(SIZE, bool)
    sea[:3, 2:] = False
    values = np.where(sea, fields[:, :, 0], np.nan)
    data = xr.Dataset({"ssh": (("member", "time", "y", "x"), values), "land": (("y", "x"), (~sea).astype("int8"))})
    data.to_netcdf(tmp_path / "sea.nc", engine="h5netcdf")
    return tmp_path / "sea.nc", fields[:, :, 0], sea


@pytest.mark.parametrize("options", [{"mask": "nan", "constants": []}, {"mask": "land", "mask_marks": "invalid"}])
def test_masks_are_inputs_and_their_points_are_filled(tmp_path, options):
    path, fields, sea = masked(tmp_path)
    data = made(path, val_fraction=0.34, **options)
    assert data.channels == (2, 1)
    item = data.datasets["train"][0]
    assert np.array_equal(item["mask"][0].numpy(), sea) and np.array_equal(item["x"][1].numpy(), sea)
    mean, std = data.statistics["output_mean"], data.statistics["output_std"]
    inside = fields[:2][:, :, sea]
    torch.testing.assert_close(mean[0], torch.tensor(inside.mean()))
    torch.testing.assert_close(std[0], torch.tensor(inside.std(ddof=1)))
    assert torch.equal(item["x"][0][~torch.from_numpy(sea)], mean.expand(int((~sea).sum())))
    np.testing.assert_array_equal(item["y"][0].numpy()[sea], fields[0, 1][sea])


def test_walls_of_the_well_are_a_mask(tmp_path):
    path, _ = write("well", tmp_path)
    assert made(path).channels == (4, 3)  # a mask is no constant
    data = made(path, mask="boundary_conditions/island/mask", mask_marks="invalid")
    assert data.channels == (5, 3) and int(data.datasets["train"][0]["mask"].sum()) == SIZE[0] * SIZE[1] - 6


def test_workers_read_the_same(tmp_path):
    for layout in ("pdebench_arrays", "netcdf"):
        data = made(write(layout, tmp_path)[0], num_workers=2, batch_size=4)
        alone = torch.stack([item["x"] for item in data.datasets["train"]])  # opened here before the workers start
        loader = torch.utils.data.DataLoader(data.datasets["train"], 4, num_workers=2)
        assert torch.equal(torch.cat([batch["x"] for batch in loader]), alone)


def test_missing_values_without_a_mask_are_named(tmp_path):
    path, _, _ = masked(tmp_path)
    with pytest.raises(ValueError, match=r"sea.nc: ssh is nan at sample 0, instant 0, point \(0, 2\).*mask=nan"):
        _ = made(path, fields=["ssh"], constants=[]).datasets["train"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps_in": 0}, "steps_in=0 must be at least 1"),
        ({"val_fraction": 1.0}, r"val_fraction=1.0 must be in \[0, 1\)"),
        ({"fields": ["depth"]}, "depth varies in time|none of them|depth"),
        ({"fields": ["salt"]}, "has no variable 'salt'; it has pressure"),
        ({"constants": ["pressure"]}, "pressure varies in time and is no constant"),
        ({"steps_in": 5, "steps_out": 4}, "has 7 instants with time_stride=1; steps_in=5 and steps_out=4 need 9"),
        ({"time_stride": 4, "steps_out": 3}, "has 2 instants with time_stride=4"),
        ({"mask": "shore"}, "has no variable 'shore'"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        made(write("well", tmp_path)[0], **options)


def test_a_folder_of_files_is_one_part(tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("a.hdf5", "b.hdf5"):
        LAYOUTS["well"][0](tmp_path / "train" / name)
    data = made(tmp_path / "train", val_fraction=0.5)
    assert len(data.datasets["train"]) == len(data.datasets["val"]) == 3 * (TIMES - 1)
    LAYOUTS["pdebench_arrays"][0](tmp_path / "train" / "c.hdf5")
    with pytest.raises(ValueError, match=r"c.hdf5 has the fields \['Vx'"):
        made(tmp_path / "train")


def test_tests_are_whole_trajectories_on_other_grids_too(tmp_path):
    path, fields = write("pdebench_arrays", tmp_path)
    data = made(path, steps_in=2, test_paths=[str(path)], test_steps=4, space_stride=2)
    item = data.datasets["test"][2]
    assert len(data.datasets["test"]) == SAMPLES
    np.testing.assert_array_equal(item["trajectory"], fields[2, 2:6, :, ::2, ::2])
    np.testing.assert_array_equal(item["y"], fields[2, 2, :, ::2, ::2])
