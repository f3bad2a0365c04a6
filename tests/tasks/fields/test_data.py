"""The packaged Darcy set, and fields from files of one's own."""

import io
import math
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import blockzoo
from blockzoo.__main__ import main
from blockzoo.tasks.fields.darcy import DarcyFlow, read_darcy
from blockzoo.tasks.fields.files import FieldFiles, read_fields


def test_the_darcy_set_is_the_published_one():
    arrays = read_darcy()
    assert {name: tuple(value.shape) for name, value in arrays.items()} == {
        "train_x": (1000, 16, 16),
        "train_y": (1000, 16, 16),
        "test16_x": (50, 16, 16),
        "test16_y": (50, 16, 16),
        "test32_x": (50, 32, 32),
        "test32_y": (50, 32, 32),
    }
    assert set(arrays["train_x"].unique().tolist()) == {0.0, 1.0}
    y = arrays["train_y"]
    assert float(y.std()) == pytest.approx(0.34, abs=0.01)
    assert float(y[:, 0].abs().mean()) < 0.01 < 0.1 < float(y[:, -1].abs().mean())  # the border is left out on one side
    # The mean field is a poor prediction of the others.
    errors = (y.mean(0) - arrays["test16_y"]).flatten(1).norm(dim=1) / arrays["test16_y"].flatten(1).norm(dim=1)
    assert float(errors.mean()) == pytest.approx(0.487, abs=0.005)
    # Both grids show the same functions: the coarse one is every second point of the fine one.
    for name in "xy":
        assert torch.equal(arrays[f"test16_{name}"], arrays[f"test32_{name}"][:, ::2, ::2])


def test_parts_of_darcy():
    data = DarcyFlow(val_size=100, batch_size=25)
    data.setup("fit")
    assert {name: len(part) for name, part in data.datasets.items()} == {"train": 900, "val": 100, "test": 50}
    assert (data.size, data.channels) == ((16, 16), (1, 1))
    assert [next(iter(loader))["x"].shape for loader in data.test_dataloader()] == [(25, 1, 16, 16), (25, 1, 32, 32)]
    held = data.datasets["val"].arrays["y"]
    assert torch.equal(held[:, 0], read_darcy()["train_y"][900:])
    statistics = data.statistics
    y = data.datasets["train"].arrays["y"]
    assert float(statistics["output_mean"]) == pytest.approx(float(y.mean()))
    assert float(statistics["output_std"]) == pytest.approx(float(y.std()), rel=1e-5)


def test_swapped_axes_are_swapped_in_inputs_and_targets_alike():
    data, plain = DarcyFlow(transpose=True), DarcyFlow()
    data.setup("fit")
    plain.setup("fit")
    swapped = 0
    for i in range(40):
        ours, theirs = data.datasets["train"][i], plain.datasets["train"][i]
        same = all(torch.equal(ours[key], theirs[key]) for key in ("x", "y"))
        assert same or all(torch.equal(ours[key], theirs[key].mT) for key in ("x", "y"))
        swapped += not same
    assert 8 < swapped < 32
    assert torch.equal(data.datasets["test"][3]["x"], plain.datasets["test"][3]["x"])


def test_the_published_files_are_packed_without_loss(tmp_path):
    wheel, out = tmp_path / "wheel.whl", tmp_path / "packed.safetensors"
    made = {}
    with zipfile.ZipFile(wheel, "w") as archive:
        for part, name, size in (("train", "train_16", 16), ("test16", "test_16", 16), ("test32", "test_32", 32)):
            made[part] = {"x": torch.rand(3, size, size) < 0.5, "y": torch.randn(3, size, size)}
            content = io.BytesIO()
            torch.save(made[part], content)
            archive.writestr(f"neuralop/datasets/data/darcy_{name}.pt", content.getvalue())
    assert main(["package", "darcy", str(wheel), "--out", str(out)]) == 0
    read = read_darcy(out)
    for part, arrays in made.items():
        assert torch.equal(read[f"{part}_x"], arrays["x"].float()) and torch.equal(read[f"{part}_y"], arrays["y"])


@pytest.mark.parametrize("size", [-1, 1000])
def test_a_validation_part_that_leaves_nothing_is_refused(size):
    with pytest.raises(ValueError, match=f"val_size={size} must be from 0 to 999"):
        DarcyFlow(val_size=size)


WRITERS = {
    ".npz": lambda path, arrays: np.savez(path, **{name: value.numpy() for name, value in arrays.items()}),
    ".safetensors": lambda path, arrays: save_file(arrays, path),
    ".pt": lambda path, arrays: torch.save(arrays, path),
}


@pytest.fixture
def write(tmp_path):
    def write(suffix=".npz", name="fields", **arrays):
        path = tmp_path / f"{name}{suffix}"
        WRITERS[suffix](path, arrays)
        return str(path)

    return write


def fields(count=10, size=(8, 6), chans=(2, 1), dtype=torch.float32):
    x, y = (torch.randn(count, c, *size, dtype=dtype) for c in chans)
    return {"x": x, "y": y}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("size", [(9,), (8, 6), (4, 5, 6)])
def test_files_are_read_in_every_format_and_dimension(write, suffix, size):
    arrays = fields(size=size, dtype=torch.double)
    data = FieldFiles(path=write(suffix, **arrays), test_paths=[write(suffix, "test", **fields(3, size=size))])
    data.setup("fit")
    assert {name: len(part) for name, part in data.datasets.items()} == {"train": 9, "val": 1, "test": 3}
    assert (data.size, data.channels) == (size, (2, 1))
    assert torch.equal(data.datasets["train"][4]["x"], arrays["x"][4].float())


def test_other_grids_and_trajectories_come_with_tests_and_inputs_alone_for_prediction(write):
    fine = {**fields(3, (16, 12)), "trajectory": torch.randn(3, 5, 1, 16, 12)}
    new = write(name="new", x=torch.randn(2, 2, 7, 7))
    tests = [write(name="coarse", **fields(3)), write(name="fine", **fine)]
    data = FieldFiles(path=write(**fields()), test_paths=tests, predict_path=new, val_fraction=0)
    data.setup("predict")
    assert "val" not in data.datasets and data.val_dataloader() == []
    coarse, fine = (next(iter(loader)) for loader in data.test_dataloader())
    assert "trajectory" not in coarse and fine["trajectory"].shape == (3, 5, 1, 16, 12)
    (batch,) = data.predict_dataloader()
    assert batch["x"].shape == (2, 2, 7, 7) and "y" not in batch
    assert data.description["split"].endswith("tests on coarse.npz, fine.npz")


def spoiled(value):
    arrays = fields()
    arrays["y"][3, 0, 2, 1] = value
    return arrays


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": torch.zeros(3, 1, 4, 4)}, r"must hold the array y; it holds x"),
        (spoiled(math.nan), r"y\[3, 0, 2, 1\] is nan; all values must be finite"),
        (spoiled(math.inf), r"y\[3, 0, 2, 1\] is inf"),
        ({"x": torch.zeros(3, 1, 4, 4), "y": torch.zeros(2, 1, 4, 4)}, r"x \(3, 1, 4, 4\) and y \(2, 1, 4, 4\) must"),
        ({"x": torch.zeros(3, 1, 4, 4), "y": torch.zeros(3, 1, 4, 5)}, "equal N and equal size"),
        ({"x": torch.zeros(3, 4), "y": torch.zeros(3, 4)}, r"x \(3, 4\) must be \(N, C, \*size\)"),
        ({"x": torch.zeros(0, 1, 4, 4), "y": torch.zeros(0, 1, 4, 4)}, "and not empty"),
        ({**fields(), "trajectory": torch.zeros(10, 4, 3, 8, 6)}, r"trajectory .* must be \(10, 'T', 1, 8, 6\) as y"),
        ({"x": torch.zeros(3, 1, 4, 4, dtype=torch.complex64), "y": torch.zeros(3, 1, 4, 4)}, "as two channels"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(write, arrays, message):
    with pytest.raises(ValueError, match=message):
        read_fields(write(".pt", **arrays))


def test_files_that_are_none_are_named(tmp_path, write):
    with pytest.raises(FileNotFoundError, match="no file .*missing.npz; it must hold the arrays x and y"):
        read_fields(tmp_path / "missing.npz")
    for suffix in (".npz", ".safetensors", ".pt"):
        broken = tmp_path / f"broken{suffix}"
        broken.write_bytes(b"not a file of this kind")
        with pytest.raises(ValueError, match=f"broken{suffix} cannot be read as {suffix}"):
            read_fields(broken)
    other = tmp_path / "fields.csv"
    other.write_text("x,y")
    with pytest.raises(ValueError, match=r"must end in .npz, .npy, .safetensors, .pt, .h5, .mat"):
        read_fields(other)


def test_damaged_torch_files_are_named(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps(torch.serialization.MAGIC_NUMBER, 2) + b"\x80\x02s.")  # takes from an empty stack
    with pytest.raises(ValueError, match="x.pt cannot be read as .pt"):
        read_fields(path)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor:UserWarning")
def test_tensors_that_are_not_dense_are_named(tmp_path):
    torch.save({"x": torch.eye(4).to_sparse()}, tmp_path / "sparse.pt")
    with pytest.raises(ValueError, match="sparse.pt cannot be read as .pt: x is not a dense tensor"):
        read_fields(tmp_path / "sparse.pt")


class Evil:
    def __reduce__(self):
        return (print, ("code was run",))


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    for name, save in (("a.pt", torch.save), ("b.npz", lambda value, path: np.savez(path, x=np.array(value, object)))):
        save(Evil(), tmp_path / name)
        with pytest.raises(ValueError, match="cannot be read"):
            read_fields(tmp_path / name)
    (tmp_path / "c.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ValueError, match="cannot be read"):
        read_fields(tmp_path / "c.pt")
    assert "code was run" not in capsys.readouterr().out


def test_parts_that_do_not_fit_each_other_are_named(write):
    data = FieldFiles(path=write(**fields()), test_paths=[write(name="other", **fields(chans=(3, 1)))])
    with pytest.raises(ValueError, match=r"other.npz: x \(10, 3, 8, 6\) must have the channels and axes of that in"):
        data.setup("test")
    with pytest.raises(ValueError, match="val_fraction=1 must be"):
        FieldFiles(path="x.npz", val_fraction=1)
    with pytest.raises(ValueError, match="val_fraction=0.9 leaves none"):
        FieldFiles(path=write(name="few", **fields(2)), val_fraction=0.9).setup("fit")


def test_constant_channels_have_deviation_one(write):
    arrays = fields()
    arrays["x"][:, 1] = 0.1
    data = FieldFiles(path=write(**arrays))
    data.setup("fit")
    assert data.statistics["input_std"][1] == 1 and data.statistics["input_std"][0] != 1
    blockzoo.create_model("fno2d", in_chans=2, hidden_channels=4, n_modes=(4, 4)).set_statistics(**data.statistics)


def test_values_of_any_number_type_and_byte_order(tmp_path):
    path, values = tmp_path / "fields.npz", np.arange(48.0).reshape(3, 1, 4, 4)
    for dtype in (">f8", ">f4", ">i4", "<u2", "float16", "longdouble", "uint8"):
        np.savez(path, x=values.astype(dtype), y=values)
        assert torch.equal(read_fields(path)["x"], torch.from_numpy(values).float()), dtype
    np.savez(path, x=values > 7, y=values)
    assert read_fields(path)["x"].sum() == 40
    values[2, 0, 1, 3] = 1e300
    np.savez(path, x=values, y=values)
    with pytest.raises(ValueError, match=r"x\[2, 0, 1, 3\] is 1e\+300, which float32 does not reach .* rescale"):
        read_fields(path)


def test_names_and_axes_can_be_told(write, tmp_path):
    arrays = fields()
    path = write(a=arrays["x"].movedim(1, -1).contiguous(), u=arrays["y"].movedim(1, -1).contiguous())
    data = FieldFiles(path=path, x_key="a", y_key="u", channels="last", val_fraction=0)
    data.setup("fit")
    assert all(torch.equal(data.datasets["train"].arrays[name], arrays[name]) for name in "xy")
    with pytest.raises(ValueError, match="must hold the array x; it holds a, u; another name is given by x_key"):
        read_fields(path)
    with pytest.raises(ValueError, match="channels='middle' must be one of 'auto', 'first', 'last', 'none'"):
        FieldFiles(path=path, channels="middle")
    flat = write(x=arrays["x"], y=arrays["y"][:, 0])
    assert torch.equal(read_fields(flat, channels="auto")["y"], arrays["y"])
    darcy = {"x": torch.rand(5, 6, 6) > 0.5, "y": torch.rand(5, 6, 6)}
    torch.save(darcy, tmp_path / "darcy.pt")
    assert read_fields(tmp_path / "darcy.pt", channels="none")["x"].shape == (5, 1, 6, 6)
    data = FieldFiles(path=str(tmp_path / "darcy.pt"))
    data.setup("fit")
    data.fit_axes(2, 1)  # what a two-dimensional model of one channel says
    assert (data.size, data.channels) == ((6, 6), (1, 1))


def write_hdf5(path, arrays):
    with pytest.importorskip("h5py").File(path, "w") as file:
        for name, value in arrays.items():
            file[f"part/{name}"] = value


def write_mat(path, arrays):
    pytest.importorskip("scipy.io").savemat(path, {f"part{name}": value for name, value in arrays.items()})


def write_mat73(path, arrays):
    with pytest.importorskip("h5py").File(path, "w", userblock_size=512) as file:
        for name, value in arrays.items():
            file[f"part{name}"] = value.T  # as MATLAB stores it
    with path.open("rb+") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512))


def write_folder(path, arrays):
    path.mkdir()
    for name, value in arrays.items():
        np.save(path / f"part{name}.npy", value)


@pytest.mark.parametrize(
    ("name", "save", "prefix"),
    [
        ("a.h5", write_hdf5, "part/"),
        ("a.mat", write_mat, "part"),
        ("b.mat", write_mat73, "part"),
        ("folder", write_folder, "part"),
    ],
)
def test_further_formats(tmp_path, name, save, prefix):
    arrays = {name: value.double().numpy() for name, value in fields().items()}
    save(tmp_path / name, arrays)
    found = read_fields(tmp_path / name, keys={"x": f"{prefix}x", "y": f"{prefix}y"})
    assert all(torch.equal(found[key], torch.from_numpy(arrays[key]).float()) for key in "xy")
    with pytest.raises(ValueError, match=f"must hold the array x; it holds {prefix}x, {prefix}y"):
        read_fields(tmp_path / name)


def test_a_single_array_is_the_input(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((2, 1, 4, 4)))
    assert read_fields(tmp_path / "x.npy", needed=("x",))["x"].shape == (2, 1, 4, 4)
    with pytest.raises(ValueError, match="must hold the array y; it holds x"):
        read_fields(tmp_path / "x.npy")


def header(shape):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return content.getvalue()


def test_files_that_unpack_to_more_than_they_mean_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("blockzoo.tasks.core.stored._SMALL", 2**20)
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros((1, 1, 2**10, 2**10)), y=np.zeros((1, 1, 2, 2)))
    (tmp_path / "claims.npy").write_bytes(header((10**6, 1, 10**4, 10**4)))
    torch.save({"x": torch.zeros(1).expand(10**6, 1, 10**3, 10**3)}, tmp_path / "expanded.pt")
    for name in ("zeros.npz", "claims.npy", "expanded.pt"):
        with pytest.raises(ValueError, match=f"{name} cannot be read .* would unpack from .* bytes"):
            read_fields(tmp_path / name, needed=("x",))


def test_no_advice_to_run_code_is_passed_on(tmp_path):
    torch.save({"x": Evil()}, tmp_path / "a.pt")
    np.savez(tmp_path / "b.npz", x=np.array([{}, {}], object))
    np.save(tmp_path / "c.npy", np.array([{}, {}], object))
    for name in ("a.pt", "b.npz", "c.npy"):
        with pytest.raises(ValueError, match="it holds Python objects, which are never read") as error:
            read_fields(tmp_path / name)
        assert "weights_only" not in str(error.value) and "allow_pickle" not in str(error.value)
