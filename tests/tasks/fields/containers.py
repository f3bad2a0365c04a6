"""Files of fields over time as other libraries write them; see test_containers.py."""

import math

import h5py
import numpy as np
import xarray as xr

SAMPLES, TIMES, SIZE = 3, 7, (8, 6)


def moving(chans=1, samples=SAMPLES, times=TIMES, size=SIZE):
    """Waves that move one point a step along the first axis, (samples, times, chans, *size)."""
    axes = np.meshgrid(*[np.arange(n) for n in size], indexing="ij")
    fields = np.zeros((samples, times, chans, *size), np.float32)
    for i, t, c in np.ndindex(samples, times, chans):
        wave = np.sin(2 * math.pi * (axes[0] - t) / size[0] + i)
        fields[i, t, c] = (c + 1) * wave + 0.1 * (axes[-1] + c)
    return fields


def pdebench_arrays(path):
    """As the compressible flows of PDEBench: an array for each field, and coordinates by name."""
    fields = moving(3)
    with h5py.File(path, "w") as file:
        for place, name in enumerate(("Vx", "Vy", "density")):
            file.create_dataset(name, data=fields[:, :, place], chunks=(1, 2, *SIZE), compression="gzip")
        file["x-coordinate"], file["y-coordinate"] = np.linspace(0, 1, SIZE[0]), np.linspace(0, 1, SIZE[1])
        file["t-coordinate"] = np.linspace(0, 2, TIMES + 1)  # PDEBench keeps the end of the last step
    return path, fields


def pdebench_groups(path):
    """As its shallow water: a group for each sample."""
    fields = moving(2)
    with h5py.File(path, "w") as file:
        for i in range(SAMPLES):
            group = file.create_group(f"{i:04d}")
            group["data"] = np.moveaxis(fields[i], 1, -1)
            for axis, n in (("x", SIZE[0]), ("y", SIZE[1]), ("t", TIMES)):
                group[f"grid/{axis}"] = np.linspace(-1, 1, n)
    return path, fields


def pdebench_incompressible(path):
    """As its incompressible flows: channels last, and a forcing without time."""
    fields = moving(3)
    with h5py.File(path, "w") as file:
        file["velocity"] = np.moveaxis(fields[:, :, :2], 2, -1)
        file["particles"] = np.moveaxis(fields[:, :, 2:], 2, -1)
        file["force"] = np.moveaxis(fields[:, 0, :2] * 2, 1, -1)
        file["t"] = np.broadcast_to(np.linspace(0, 1, TIMES), (SAMPLES, TIMES))
    return path, np.concatenate([fields[:, :, 2:], fields[:, :, :2]], 2)  # by name


def well(path):
    """As the files of the Well: scalar and vector fields, one constant along an axis, and boundaries."""
    fields = moving(3)
    with h5py.File(path, "w") as file:
        file.attrs.update({"n_spatial_dims": 2, "n_trajectories": SAMPLES, "dataset_name": "waves"})
        dimensions = file.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = ["x", "y"]
        dimensions["time"] = np.linspace(0, 1, TIMES, dtype=np.float32)
        for axis, n in zip("xy", SIZE, strict=True):
            dimensions[axis] = np.linspace(0, 1, n, dtype=np.float32)

        def add(group, name, data, varies=(True, True), sample=True, time=True):
            item = file[group].create_dataset(name, data=data)
            item.attrs.update({"dim_varying": list(varies), "sample_varying": sample, "time_varying": time})

        for order, names in enumerate((["pressure", "depth"], ["velocity"], [])):
            file.create_group(f"t{order}_fields").attrs["field_names"] = names
        add("t0_fields", "pressure", fields[:, :, 0])
        add("t0_fields", "depth", np.arange(SIZE[1], dtype=np.float32), (False, True), False, False)
        add("t1_fields", "velocity", np.moveaxis(fields[:, :, 1:], 2, -1))
        for axis, kind in (("x", "PERIODIC"), ("y", "WALL")):
            group = file.create_group(f"boundary_conditions/{axis}_{kind}")
            group.attrs.update({"associated_dims": [axis], "bc_type": kind})
            group["mask"] = np.ones(SIZE["xy".index(axis)], bool)
        walls = file.create_group("boundary_conditions/island")
        walls.attrs.update({"associated_dims": ["x", "y"], "bc_type": "WALL"})
        walls["mask"] = np.add.outer(np.arange(SIZE[0]), np.arange(SIZE[1])) < 3
    return path, fields


def _dataset():
    fields = moving(2)
    dims = ("member", "time", "lat", "lon")
    return fields, xr.Dataset(
        {
            "u": (dims, fields[:, :, 0], {"units": "m s-1"}),
            "v": (dims, fields[:, :, 1]),
            "orography": (("lat", "lon"), fields[0, 0, 0] + 3),
            "global_mean": (("member", "time"), fields[:, :, 0].mean((-1, -2))),
        },
        coords={
            "time": np.datetime64("2020-01-01", "ns") + np.arange(TIMES) * np.timedelta64(6, "h"),
            "lat": np.linspace(60, 30, SIZE[0]),
            "lon": np.linspace(0, 50, SIZE[1]),
        },
        attrs={"title": "winds"},
    )


def netcdf(path):
    """NetCDF 4 by xarray, with dates."""
    fields, dataset = _dataset()
    dataset.to_netcdf(path, engine="h5netcdf")
    return path, fields


def netcdf_classic(path):
    """NetCDF 3, as old programs write it."""
    fields, dataset = _dataset()
    dataset.to_netcdf(path, engine="scipy")
    return path, fields


def zarr(path):
    """Zarr in chunks, in the format of today."""
    fields, dataset = _dataset()
    dataset.to_zarr(path, encoding={"u": {"chunks": (1, 2, 4, 6)}}, consolidated=False)
    return path, fields


def zarr_2(path):
    """Zarr in the format before, as most stores have it."""
    fields, dataset = _dataset()
    dataset.to_zarr(path, zarr_format=2)
    return path, fields


def zarr_2_bare(path):
    """The same without a summary of metadata."""
    fields, dataset = _dataset()
    dataset.to_zarr(path, zarr_format=2, consolidated=False)
    return path, fields


LAYOUTS = {
    "pdebench_arrays": (pdebench_arrays, "flow.hdf5"),
    "pdebench_groups": (pdebench_groups, "swe.h5"),
    "pdebench_incompressible": (pdebench_incompressible, "ns.h5"),
    "well": (well, "waves.hdf5"),
    "netcdf": (netcdf, "wind.nc"),
    "netcdf_classic": (netcdf_classic, "old.nc"),
    "zarr": (zarr, "wind.zarr"),
    "zarr_2": (zarr_2, "wind.zarr"),
    "zarr_2_bare": (zarr_2_bare, "wind.zarr"),
}
"""How a file is written, and its name."""
