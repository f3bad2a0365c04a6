"""The packaged Darcy set, and fields from files of one's own."""

import io
import math
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

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
    assert main(["package", "darcy", str(wheel), str(out)]) == 0
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
    with pytest.raises(ValueError, match=r"must end in .npz, .npy, .safetensors, .pt"):
        read_fields(other)


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
