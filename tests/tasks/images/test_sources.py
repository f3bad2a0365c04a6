"""Images as people have them: tables, Parquet, shards and data sets, written with the libraries that define them."""

import csv
import gzip
import io
import json
import sys
import tarfile
import types

import numpy as np
import pytest
import torch
from PIL import Image

from blockzoo.__main__ import main
from blockzoo.tasks.app.training import main as train
from blockzoo.tasks.core.label_tables import class_numbers, read_table
from blockzoo.tasks.images.folders import ImageFolder
from blockzoo.tasks.images.hub_sets import HuggingFaceImages
from blockzoo.tasks.images.shards import ImageShards, shard_files
from blockzoo.tasks.images.tables import ImageTable

SMALL = {"img_size": 8, "crop_pct": 1.0, "num_workers": 0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
LEVELS = {"cat": 40, "dog": 120, "eel": 200}
"""Grey level of all images of a class, so that a pair of image and label can be checked."""


def png(label, shift=0):
    buffer = io.BytesIO()
    Image.new("RGB", (10, 10), (LEVELS[label] + shift,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def write_files(root, labels):
    """One PNG for each label; returns the names."""
    names = []
    for number, label in enumerate(labels):
        names.append(f"img/{number}.png")
        (root / "img").mkdir(exist_ok=True)
        (root / names[-1]).write_bytes(png(label))
    return names


def check(data, part, labels):
    """Every image of a part has the class of its grey level, and all of them are there."""
    data.setup("fit")
    samples = [data.datasets[part][i] for i in range(len(data.datasets[part]))]
    plain = [data.class_names[int(sample["label"])] for sample in samples]
    assert plain == labels
    if part != "train":
        levels = [float(sample["x"].mean()) * 255 for sample in samples]
        assert levels == pytest.approx([LEVELS[label] for label in labels], abs=0.5)


LABELS = ["dog", "cat", "eel", "dog"]


def tables(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"note": ["a, b", "", 'c "d"', "e"], "file": write_files(tmp_path, LABELS), "label": LABELS}
    )
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "a.json", orient="records")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "a.parquet")
    with (tmp_path / "bom.csv").open("w", encoding="utf-8-sig") as file:
        file.write(frame.to_csv(index=False, sep=";"))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.jsonl", "a.parquet", "bom.csv"])
def test_tables_that_pandas_wrote_are_read(tmp_path, name):
    tables(tmp_path)
    more = {"delimiter": ";"} if name == "bom.csv" else {}
    data = ImageTable(str(tmp_path / name), val=str(tmp_path / name), **more, **SMALL)
    check(data, "val", LABELS)
    assert data.class_names == ("cat", "dog", "eel") and data.sample_names("val")[2].endswith("img/2.png")
    assert data.preprocessing["label_names"] == ["cat", "dog", "eel"] and "multi_label" not in data.preprocessing


@pytest.mark.parametrize("kind", ["bytes", "datasets"])
def test_parquet_may_hold_the_images(tmp_path, kind):
    if kind == "bytes":
        pandas = pytest.importorskip("pandas")
        pandas.DataFrame({"image": [png(label) for label in LABELS], "label": LABELS}).to_parquet(
            tmp_path / "a.parquet"
        )
        names = ("cat", "dog", "eel")
    else:
        datasets = pytest.importorskip("datasets")
        names = ("eel", "dog", "cat")  # an order of its own, which is kept
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
        rows = {
            "image": [{"bytes": png(label), "path": None} for label in LABELS],
            "label": [names.index(label) for label in LABELS],
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    data = ImageTable(str(tmp_path / "a.parquet"), test=str(tmp_path / "a.parquet"), **SMALL)
    check(data, "test", LABELS)
    assert data.class_names == names


def test_a_column_or_a_share_makes_the_parts(tmp_path):
    names = write_files(tmp_path, ["cat", "dog"] * 10)
    rows = [
        ["path", "class", "split"],
        *([n, "cat dog".split()[i % 2], "val" if i < 4 else "train"] for i, n in enumerate(names)),
    ]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    data = ImageTable(str(tmp_path / "a.csv"), split_column="split", **SMALL)
    check(data, "val", ["cat", "dog"] * 2)
    assert len(data.datasets["train"]) == 16
    data = ImageTable(str(tmp_path / "a.csv"), val_fraction=0.2, split_seed=3, **SMALL)
    data.setup("fit")
    assert {name: len(part) for name, part in data.datasets.items()} == {"train": 16, "val": 4}
    held = data.sample_names("val")
    assert not set(held) & set(data.sample_names("train")) and len(data.datasets["val"].source.labels) == 4
    assert sorted(data.datasets["val"].source.labels) == [(0,), (0,), (1,), (1,)]


def test_files_may_lack_their_ending_and_json_may_map_them_to_labels(tmp_path):
    names = write_files(tmp_path, LABELS)
    (tmp_path / "a.csv").write_text(
        "sep=;\nid;path;class\n" + "".join(f"{i};img/{i};{k}\n" for i, k in enumerate(LABELS))
    )
    data = ImageTable(str(tmp_path / "a.csv"), val=str(tmp_path / "a.csv"), image_suffix=".png", **SMALL)
    check(data, "val", LABELS)
    with pytest.raises(ValueError, match=r"a\.csv, line 3: no such file: .*img/0 \(set image_suffix=\.png\)"):
        ImageTable(str(tmp_path / "a.csv"), **SMALL).setup("fit")
    (tmp_path / "a.json").write_text(json.dumps(dict(zip(names, LABELS, strict=True))))
    data = ImageTable(str(tmp_path / "a.json"), val=str(tmp_path / "a.json"), **SMALL)
    check(data, "val", LABELS)
    (tmp_path / "a.json").write_text(
        json.dumps({name: [label, "all"] for name, label in zip(names, LABELS, strict=True)})
    )
    data = ImageTable(str(tmp_path / "a.json"), multi_label=True, **SMALL)
    data.setup("fit")
    assert data.class_names == ("all", "cat", "dog", "eel") and data.train_labels[0] == (0, 2)


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path, sign):
    write_files(tmp_path, ["dog"])
    (tmp_path / "a.csv").write_text(f"file{sign}label\nimg/0.png{sign}dog\n")
    assert read_table(tmp_path / "a.csv").columns == {"file": ["img/0.png"], "label": ["dog"]}


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ("file,label\nimg/0.png,dog\nimg/9.png,cat\n", {}, r"a\.csv, line 3: no such file: .*img/9\.png"),
        ("file,label\nimg/0.png,\n", {}, r"a\.csv, line 2: no label in the column label"),
        ('file,label\n"img/0.png",dog\nimg/1.png\n', {}, r"a\.csv, line 3: 1 cells, the first line has 2 columns"),
        (
            "x,label\nimg/0.png,dog\n",
            {},
            r"a\.csv has no a column called image or path or file; its columns are x, label",
        ),
        ("file,label\nimg/0.png,dog\n", {"label_column": "kind"}, r"a\.csv has no label_column='kind'"),
        ("file,label\nimg/0.png,dog|cat\n", {"label_separator": "|"}, "set multi_label=true"),
        ("file,cat,dog\nimg/0.png,1,2\n", {"label_columns": ["cat", "dog"], "multi_label": True}, "line 2: '2' in the"),
        ("file,label,part\nimg/0.png,dog,maybe\n", {"split_column": "part"}, "line 2: 'maybe' in the column part"),
        ("file,label\n", {}, r"a\.csv has no rows"),
        ("", {}, r"a\.csv is empty"),
    ],
)
def test_wrong_tables_are_named_by_line(tmp_path, text, more, said):
    write_files(tmp_path, ["dog", "cat"])
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        ImageTable(str(tmp_path / "a.csv"), **more, **SMALL).setup("fit")
    assert "\n" not in str(caught.value)


def test_other_wrong_tables_are_named(tmp_path):
    write_files(tmp_path, ["dog", "cat"])
    (tmp_path / "a.csv").write_text("file,label\nimg/0.png,dog\nimg/1.png,cat\n")
    (tmp_path / "b.csv").write_text("file,label\nimg/0.png,dog\nimg/1.png,bat\n")
    with pytest.raises(ValueError, match=r"b\.csv, line 3: class 'bat' is not in the training part \(cat, dog\)"):
        ImageTable(str(tmp_path / "a.csv"), val=str(tmp_path / "b.csv"), **SMALL).setup("fit")
    (tmp_path / "a.json").write_text('[{"file": "img/0.png", "label": "dog"},\n oh]')
    with pytest.raises(ValueError, match=r"a\.json, line 2: not valid JSON"):
        read_table(tmp_path / "a.json")
    (tmp_path / "a.jsonl").write_text('{"file": "img/0.png"}\n3\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: '3' is no object"):
        read_table(tmp_path / "a.jsonl")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"a\.parquet is not readable as Parquet"):
        read_table(tmp_path / "a.parquet")
    (tmp_path / "latin.csv").write_bytes("file,label\nä.png,dog\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.csv is not UTF-8 text"):
        read_table(tmp_path / "latin.csv")
    with pytest.raises(FileNotFoundError, match=r"gone\.csv: no such table"):
        read_table(tmp_path / "gone.csv")
    with pytest.raises(ValueError, match=r"a\.xls is no table"):
        (tmp_path / "a.xls").touch()
        read_table(tmp_path / "a.xls")


def test_names_of_columns_are_stripped_as_cells_are(tmp_path):
    (tmp_path / "a.csv").write_text("file, label\na.png, dog\n")
    assert read_table(tmp_path / "a.csv").columns == {"file": ["a.png"], "label": ["dog"]}


def test_json_that_would_lose_samples_or_names_no_file_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"a.png": "dog", "a.png": "cat"}')
    with pytest.raises(ValueError, match=r"a\.json: not valid JSON: 'a.png' comes twice"):
        read_table(tmp_path / "a.json")
    (tmp_path / "a.jsonl").write_text('{"file": "a.png"}\n{"file": "a.png", "file": "b.png"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: not valid JSON: 'file' comes twice"):
        read_table(tmp_path / "a.jsonl")
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_text('{"label": ' + "1" * 5000 + "}")
        with pytest.raises(ValueError, match=f"{name}.*: not valid JSON: Exceeds the limit"):
            read_table(tmp_path / name)


def test_parquet_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(20_000, np.int32)), pyarrow.array(["a" * 999]))
    parquet.write_table(pyarrow.table({"label": column.cast(pyarrow.string())}), tmp_path / "a.parquet")
    assert len(read_table(tmp_path / "a.parquet")) == 20_000
    monkeypatch.setattr("blockzoo.tasks.core.label_tables._LARGEST_TABLE", 1 << 20)
    with pytest.raises(
        ValueError, match=r"a\.parquet is not readable as Parquet: it unpacks to far more than its size"
    ):
        read_table(tmp_path / "a.parquet")


def test_classes_of_one_value_have_one_order():
    orders = {class_numbers([(name,) for name in names], str)[0] for names in (("1", "01", "2"), ("01", "2", "1"))}
    orders |= {class_numbers([(name,) for name in ("2", *("0" * i + "1" for i in range(9)))], str)[0][:3]}
    assert orders == {("01", "1", "2"), ("000000001", "00000001", "0000001")}


@pytest.mark.parametrize("form", ["separator", "list", "columns"])
def test_several_labels_become_zeros_and_ones(tmp_path, form):
    names = write_files(tmp_path, ["cat", "dog", "eel"])
    own = [["dog", "cat"], [], ["eel"]]
    wanted = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    file, more = tmp_path / "a.csv", {}
    if form == "separator":
        lines = [f"{name},{'|'.join(labels)}" for name, labels in zip(names, own, strict=True)]
        file.write_text("\n".join(["image,tags", *lines]) + "\n")
        more = {"label_separator": "|"}
    elif form == "list":
        file = tmp_path / "a.json"
        file.write_text(json.dumps([{"image": n, "labels": labels} for n, labels in zip(names, own, strict=True)]))
    else:
        rows = [[n, *("cat" in o, "dog" in o, "eel" in o)] for n, o in zip(names, own, strict=True)]
        lines = [",".join(str(int(v)) if isinstance(v, bool) else v for v in row) for row in rows]
        file.write_text("\n".join(["image,cat,dog,eel", *lines]) + "\n")
        more = {"label_columns": ["cat", "dog", "eel"]}
    data = ImageTable(str(file), multi_label=True, **more, **SMALL)
    data.setup("fit")
    assert torch.equal(torch.stack([data.datasets["train"][i]["label"] for i in range(3)]), wanted)
    assert data.preprocessing["multi_label"] is True and data.class_names == ("cat", "dog", "eel")


def test_numbers_are_ordered_by_value(tmp_path):
    names = write_files(tmp_path, ["cat"] * 3)
    (tmp_path / "a.csv").write_text(
        "file,label\n" + "".join(f"{n},{k}\n" for n, k in zip(names, (10, 9, 2), strict=True))
    )
    data = ImageTable(str(tmp_path / "a.csv"), **SMALL)
    data.setup("fit")
    assert data.class_names == ("2", "9", "10") and data.train_labels == [(2,), (1,), (0,)]


# Broken images.


@pytest.mark.parametrize("form", ["folder", "table"])
def test_broken_images_are_named_and_skipped_on_request(tmp_path, capsys, form):
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            for i in range(3):
                (tmp_path / part / label).mkdir(parents=True, exist_ok=True)
                (tmp_path / part / label / f"{i}.png").write_bytes(png(label))
    (tmp_path / "train" / "cat" / "1.png").write_bytes(png("cat")[:40])
    (tmp_path / "val" / "dog" / "2.png").write_bytes(b"")
    lines = {
        p: ["file,label"] + [f"{p}/{k}/{i}.png,{k}" for k in ("cat", "dog") for i in range(3)] for p in ("train", "val")
    }
    for part, rows in lines.items():
        (tmp_path / f"{part}.csv").write_text("\n".join(rows) + "\n")

    def make(**kwargs):
        if form == "folder":
            return ImageFolder(str(tmp_path), **kwargs, **SMALL)
        return ImageTable(str(tmp_path / "train.csv"), val=str(tmp_path / "val.csv"), **kwargs, **SMALL)

    data = make()
    data.setup("fit")
    with pytest.raises(ValueError, match=r"train/cat/1\.png is not a readable image") as caught:
        data.datasets["train"][1]
    if form == "table":
        assert "train.csv, line 3: " in str(caught.value)
    data = make(skip_broken=True)
    data.setup("fit")
    assert len(data.datasets["train"]) == len(data.datasets["val"]) == 5 and len(data.skipped) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2 and "train/cat/1.png" in err[0] and "val/dog/2.png" in err[1]
    assert data.train_labels == [(0,), (0,), (1,), (1,), (1,)]
    assert [int(data.datasets["val"][i]["label"]) for i in range(5)] == [0, 0, 0, 1, 1]
    assert "2 images that cannot be read left out" in data.description["split"]
    for i in range(3):
        (tmp_path / "train" / "cat" / f"{i}.png").write_bytes(b"no")
    with pytest.raises(ValueError, match="class 'cat' has no training image that can be read"):
        make(skip_broken=True).setup("fit")


# Shards.


def write_shards(folder, labels, per_shard=2, encode=None):
    webdataset = pytest.importorskip("webdataset")
    folder.mkdir(exist_ok=True)
    with webdataset.ShardWriter(str(folder / "a-%03d.tar"), maxcount=per_shard, verbose=0) as sink:
        for i, label in enumerate(labels):
            sink.write({"__key__": f"{i:04d}", "png": png(label), **(encode or (lambda label: {"txt": label}))(label)})


@pytest.mark.parametrize(
    ("encode", "more"),
    [
        (lambda label: {"txt": label}, {}),
        (lambda label: {"cls": sorted(LEVELS).index(label)}, {"class_file": "names.txt"}),
        (lambda label: {"json": {"id": 3, "category": label}}, {}),
        (lambda label: {"json": {"kind": label}, "depth.png": png("cat")}, {"label_field": "kind", "image_key": "png"}),
    ],
)
def test_shards_that_webdataset_wrote_are_read(tmp_path, monkeypatch, encode, more):
    monkeypatch.chdir(tmp_path)
    write_shards(tmp_path / "train", LABELS, encode=encode)
    (tmp_path / "names.txt").write_text("cat\ndog\neel\n")
    for given in ("train", "train/a-*.tar", "train/a-{000..001}.tar"):
        data = ImageShards("train", val=given, **more, **SMALL)
        check(data, "val", LABELS)
    assert data.class_names == ("cat", "dog", "eel") and data.sample_names("val")[3] == "train/a-001.tar, key 0003"
    assert sum(len(batch["label"]) for batch in data.val_dataloader()) == 4


def test_wrong_shards_are_named_by_key(tmp_path):
    write_shards(tmp_path / "a", LABELS)
    path = tmp_path / "a" / "a-000.tar"
    whole = path.read_bytes()
    with pytest.raises(ValueError, match=r"a-000\.tar, key 0000: no label \(cls\); its files end in png, txt"):
        ImageShards(str(path), label_key="cls", **SMALL).setup("fit")
    with pytest.raises(ValueError, match=r"key 0000: no image; its files end in png, txt"):
        ImageShards(str(path), image_key="jpg", **SMALL).setup("fit")
    for cut in (len(whole) // 2 // 512 * 512, 700, 4 * 512):  # between two files, within one, behind the first sample
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"a-000\.tar is not a whole tar archive"):
            ImageShards(str(path), **SMALL).setup("fit")
    path.write_bytes(gzip.compress(whole))
    with pytest.raises(ValueError, match="it is compressed; unpack it with gunzip"):
        ImageShards(str(path), **SMALL).setup("fit")
    with pytest.raises(FileNotFoundError, match=r"a-007\.tar: no such archive"):
        shard_files(str(tmp_path / "a" / "a-{001..007}.tar").replace("001", "007"))
    write_shards(tmp_path / "b", ["dog", "cat"])
    broken = (tmp_path / "b" / "a-000.tar").read_bytes().replace(b"\x89PNG", b"\x00PNG", 1)
    (tmp_path / "b" / "a-000.tar").write_bytes(broken)
    data = ImageShards(str(tmp_path / "b"), **SMALL)
    data.setup("fit")
    with pytest.raises(ValueError, match=r"a-000\.tar, key 0000 is not a readable image"):
        data.datasets["train"][0]


def test_links_and_sizes_below_zero_in_archives_are_refused(tmp_path):
    path, content = tmp_path / "a.tar", png("cat")
    for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):  # tar stores a second name of a file as a link
        with tarfile.open(path, "w") as archive:
            for name, data in (("a.png", content), ("a.txt", b"cat")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
            for name in ("a.png", "a.txt"):
                member = tarfile.TarInfo(name.replace("a", "b", 1))
                member.type, member.linkname = kind, name
                archive.addfile(member)
        with pytest.raises(ValueError, match=r"a\.tar, key b: \.png is a link, not a file"):
            ImageShards(str(path), **SMALL).setup("fit")
    header = bytearray(tarfile.TarInfo("noise").tobuf())
    header[124:136] = b"\xff" * 10 + b"\xfc\x00"  # -1024, which leads back to this header
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + bytes(10240))
    with pytest.raises(ValueError, match=r"a\.tar is not a whole tar archive: 'noise' has a negative size"):
        ImageShards(str(path), **SMALL).setup("fit")


def test_a_range_stops_at_its_first_missing_archive(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a-0\.tar: no such archive"):
        shard_files(str(tmp_path / "a-{0..99999999999999}.tar"))


def test_lists_of_classes_are_checked(tmp_path):
    write_shards(tmp_path / "a", LABELS, encode=lambda label: {"cls": sorted(LEVELS).index(label)})
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\neel\n", encoding="utf-8-sig")
    data = ImageShards(str(tmp_path / "a"), class_file=str(names), **SMALL)
    data.setup("fit")
    assert data.class_names == ("cat", "dog", "eel")
    for content, said in ((b"cat\ncat\n", "'cat' twice"), (b"\n", "no classes"), (b"\xe4\n", "is not UTF-8 text")):
        names.write_bytes(content)
        with pytest.raises(ValueError, match=f"names.txt.*{said}"):
            ImageShards(str(tmp_path / "a"), class_file=str(names), **SMALL).setup("fit")
    with pytest.raises(FileNotFoundError, match="class_file=.*gone.txt: no such file"):
        ImageShards(str(tmp_path / "a"), class_file=str(tmp_path / "gone.txt"), **SMALL).setup("fit")


# The library datasets.


@pytest.mark.parametrize("form", ["saved", "parquet"])
def test_sets_of_the_library_datasets_are_read(tmp_path, monkeypatch, form):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    datasets.disable_progress_bars()
    names = ["eel", "cat", "dog"]
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    rows = {
        "picture": [{"bytes": png(label), "path": None} for label in LABELS],
        "label": [names.index(label) for label in LABELS],
    }
    whole = datasets.Dataset.from_dict(rows, features=features)
    if form == "saved":
        datasets.DatasetDict({"train": whole, "validation": whole.select([2, 0])}).save_to_disk(tmp_path / "set")
    else:
        (tmp_path / "set").mkdir()
        whole.to_parquet(tmp_path / "set" / "train-0.parquet")
        whole.select([2, 0]).to_parquet(tmp_path / "set" / "validation-0.parquet")
    data = HuggingFaceImages(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"), **SMALL)
    check(data, "val", ["eel", "dog"])
    assert data.class_names == ("eel", "cat", "dog") and data.train_labels == [(2,), (1,), (0,), (2,)]
    assert data.description["split"] == "parts train, validation"
    with pytest.raises(ValueError, match="has no part 'holdout'; its parts are train, validation"):
        HuggingFaceImages(
            str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"), test_split="holdout", **SMALL
        ).setup("fit")
    with pytest.raises(ValueError, match="path='.*nothing' cannot be loaded"):
        HuggingFaceImages(str(tmp_path / "nothing"), cache_dir=str(tmp_path / "cache"), **SMALL).setup("fit")


def test_no_code_of_a_data_set_is_run(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.py").write_text("open('ran', 'w').close()\n")
    with pytest.raises(ValueError, match="path='set' cannot be loaded"):
        HuggingFaceImages("set", cache_dir=str(tmp_path / "cache"), **SMALL).setup("fit")
    with pytest.raises(ValueError, match="path='pandas' is no folder here, and no data set on the hub"):
        HuggingFaceImages("pandas", **SMALL).setup("fit")  # the library's reader of pickles
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(ValueError, match=r"datasets 3\.6\.0 runs the scripts of data sets; update it"):
        HuggingFaceImages("set", **SMALL).setup("fit")
    assert not (tmp_path / "ran").exists()


def test_a_downloaded_set_names_files_of_its_own_alone(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    paths = [tmp_path / "cache" / "own.png", tmp_path / "private.png", tmp_path / "cache" / ".." / "private.png"]
    (tmp_path / "cache").mkdir()
    for path in paths[:2]:
        path.write_bytes(png("cat"))
    rows = {"image": [{"bytes": None, "path": str(path)} for path in paths], "label": ["cat"] * 3}
    whole = datasets.Dataset.from_dict(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: datasets.DatasetDict({"train": whole}))
    for name, allowed in (("owner/name", 1), ("cache", 3)):  # of the hub; a folder of the user's
        monkeypatch.chdir(tmp_path)
        data = HuggingFaceImages(name, cache_dir=str(tmp_path / "cache"), **SMALL)
        data.setup("fit")
        assert data.datasets["train"][0]["x"].shape == (3, 8, 8)
        for index in range(1, 3):
            if index < allowed:
                data.datasets["train"][index]
                continue
            with pytest.raises(ValueError, match=f"row {index + 1}: it names .*private.png, which is no file of the"):
                data.datasets["train"][index]


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'blockzoo\[images\]'"):
        HuggingFaceImages("a/b", **SMALL).setup("fit")


# Classes of unequal size.


def test_a_balanced_epoch_sees_every_class_equally_often(tmp_path):
    labels = ["cat"] * 90 + ["dog"] * 10
    names = write_files(tmp_path, labels)
    (tmp_path / "a.csv").write_text("file,label\n" + "".join(f"{n},{k}\n" for n, k in zip(names, labels, strict=True)))
    torch.manual_seed(0)
    seen = {}
    for balance in (False, True):
        data = ImageTable(str(tmp_path / "a.csv"), balance=balance, batch_size=10, **SMALL)
        data.setup("fit")
        found = np.concatenate([batch["label"].numpy() for epoch in range(5) for batch in data.train_dataloader()])
        assert len(found) == 500
        seen[balance] = found.mean()
    assert seen[False] == 0.1 and abs(seen[True] - 0.5) < 0.07


# From a table of several labels to a run, its predictions, and predictions on files.


def test_several_labels_from_fit_to_predict(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own = [("cat",), ("dog",), ("cat", "dog"), ()] * 4
    names = write_files(tmp_path, ["cat", "dog", "eel", "dog"] * 4)
    lines = [f"{name},{'|'.join(labels)}" for name, labels in zip(names, own, strict=True)]
    (tmp_path / "a.csv").write_text("\n".join(["file,tags", *lines]) + "\n")
    model = {
        "model_name": "nasnet_cifar",
        "model_kwargs": {"num_classes": 2, "width": 4, "num_cells": 1},
        "multi_label": True,
        "class_weights": "balanced",
        "mixup": 0.2,
    }
    data = {"train": "a.csv", "test": "a.csv", "val_fraction": 0.25, "multi_label": True, "label_separator": "|"}
    data |= {"balance": True, "skip_broken": True, "batch_size": 4, "num_workers": 0}
    (tmp_path / "img" / "7.png").write_bytes(b"broken")
    trainer = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "log_every_n_steps": 1}
    trainer |= {"enable_progress_bar": False, "callbacks": [{"class_path": "RunFolder"}]}
    trainer["logger"] = {"class_path": "CSVLogger", "init_args": {"save_dir": "runs", "name": "tags"}}
    config = {
        "model": {"class_path": "ImageClassification", "init_args": model},
        "data": {"class_path": "ImageTable", "init_args": data},
        "trainer": trainer,
    }
    (tmp_path / "tags.json").write_text(json.dumps(config))
    assert train(["fit", "--config", "tags.json"]) == 0
    run = tmp_path / "runs" / "tags" / "version_0"
    assert "skipped: a.csv, line 9: img/7.png" in capsys.readouterr().err
    assert "img/7.png" in (run / "skipped.txt").read_text()
    assert {"test/map", "test/f1"} <= set(json.loads((run / "results.json").read_text())["test"])
    stored = json.loads((run / "config.json").read_text())["pretrained_cfg"]
    assert stored["label_names"] == ["cat", "dog"] and stored["multi_label"] is True

    monkeypatch.setitem(sys.modules, "a", types.ModuleType("a"))  # a.csv in the run's config is still a table
    assert train(["predict", str(run)]) == 0
    rows = list(csv.DictReader((tmp_path / "runs" / "predictions.csv").read_text().splitlines()))
    assert len(rows) == 15 and rows[7]["sample"] == "img/8.png" and rows[7]["index"] == "7"
    capsys.readouterr()
    assert main(["predict", str(run), "img/8.png", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    shares = found["probabilities"]
    assert [shares[k] for k in ("cat", "dog")] == pytest.approx([float(rows[7][k]) for k in ("cat", "dog")], abs=1e-6)
    said = "|".join(name for name, share in shares.items() if share >= 0.5)
    assert found["label"] == rows[7]["label"] == said
    config["model"]["init_args"]["multi_label"] = False
    (tmp_path / "tags.json").write_text(json.dumps(config))
    assert train(["fit", "--config", "tags.json"]) == 2
    assert "the data have several labels a sample; set the model's multi_label=true too" in capsys.readouterr().err
