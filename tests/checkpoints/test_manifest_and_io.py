"""The manifest's format, and files of weights."""

import argparse
import contextlib
import json
import os
import struct
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import blockzoo
from blockzoo.checkpoints import (
    CheckpointError,
    fetch,
    load_manifest,
    load_state_dict,
    read_card,
    read_metadata,
    save_state_dict,
)

ENTRY = {
    "file": "w.safetensors", "sha256": "0" * 64, "size": 3, "sources": [{"url": "https://example.org/w"}],
    "license": "apache-2.0", "data_license": "cc-by-4.0", "origin": "ours", "command": "x",
    "metric": {"name": "accuracy", "value": 0.9, "dataset": "d", "split": "test"},
}  # fmt: skip


def manifest(tmp_path, **changes):
    entry = {key: value for key, value in {**ENTRY, **changes}.items() if value != "absent"}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"format_version": 1, "checkpoints": {"m.t": entry}}))
    return load_manifest(path)["m.t"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "unknown fields .'colour'."),
        ({"size": "absent"}, "missing fields .'size'."),
        ({"sha256": "abc"}, "sha256 is 'abc', expected 64"),
        ({"size": 0}, "size is 0"),
        ({"size": True}, "size is True"),
        ({"file": "../w"}, "file is '../w', expected a bare file name"),
        ({"file": ".."}, "file is '..', expected a bare file name"),
        ({"card": "a/b.md"}, "card is 'a/b.md', expected a bare file name"),
        ({"license": ""}, "license is '', expected text"),
        ({"metric": {"value": 1}}, "metric lacks .'dataset', 'name', 'split'."),
        ({"model_args": [1]}, "model_args is .1., expected an object"),
        ({"sources": []}, "sources is .., expected a list of at least one"),
        ({"sources": ["https://example.org/w"]}, "source is 'https://example.org/w', expected the fields"),
        ({"sources": [{"url": "example.org/w"}]}, "url is 'example.org/w', expected an http, https or file address"),
        ({"sources": [{"package": "../w"}]}, "package is '../w', expected a bare file name"),
        ({"origin": "theirs"}, "origin is 'theirs'"),
        ({"sources": [{"url": "x", "package": "y"}]}, "source is .*, expected the fields"),
        ({"sources": [{"hub_repo": "a/b", "hub_file": "w", "hub_revision": "main"}]}, "hub_revision is 'main'"),
    ],
)
def test_malformed_entries_are_explained(tmp_path, changes, message):
    assert manifest(tmp_path).size == 3
    with pytest.raises(CheckpointError, match=message):
        manifest(tmp_path, **changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format_version": 2, "checkpoints": {}}', "format_version is 2, expected 1"),
        ('{"format_version": 1}', "checkpoints is None"),
        ('{"format_version": 1, "checkpoints": {"m": {}}}', "the name is 'm', expected \"model.tag\""),
        ('{"format_version": 1, "checkpoints": {"m.t": 3}}', "m.t: the entry is 3, expected an object"),
        ("[]", "format_version is None"),
        ("{", "is not JSON"),
    ],
)
def test_a_malformed_manifest_is_explained(tmp_path, text, message):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load_manifest(tmp_path / "m.json")


@pytest.mark.parametrize("name", sorted(load_manifest()))
def test_every_entry_is_a_model_with_a_card_and_packaged_files_are_intact(name):
    artifact = load_manifest()[name]
    if blockzoo.is_model(name):
        assert blockzoo.get_pretrained_cfg(name).checkpoint == name
    else:
        assert f"timm:{name}" in artifact.command and name in timm.list_pretrained("vit_*dinov2*")
    assert artifact.command and artifact.license and artifact.data_license
    if artifact.origin == "ours":
        assert str(artifact.metric["value"])[:4] in read_card(artifact)
        assert fetch(artifact).stat().st_size == artifact.size
        blockzoo.create_model(name, pretrained=True)


def test_every_pretrained_tag_has_an_entry():
    tags = [blockzoo.get_pretrained_cfg(name).checkpoint for name in blockzoo.list_pretrained()]
    assert set(filter(None, tags)) == {name for name in load_manifest() if blockzoo.is_model(name)}


def test_reading_ignores_the_suffix_and_unwraps(tmp_path):
    weight = torch.arange(3.0)
    save_file({"a": weight}, tmp_path / "odd.bin")
    torch.save({"state_dict": {"module.a": weight}, "state_dict_ema": {"module.a": weight + 1}}, tmp_path / "t.pth")
    torch.save({"state_dict": {"model.a": weight}, "pytorch-lightning_version": "2"}, tmp_path / "l.ckpt")
    torch.save({"model.a": weight}, tmp_path / "plain.pt")
    torch.save({"a": weight}, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    assert load_state_dict(tmp_path / "odd.bin")["a"].equal(weight)
    assert load_state_dict(tmp_path / "t.pth")["a"].equal(weight + 1)
    assert load_state_dict(tmp_path / "l.ckpt")["a"].equal(weight)
    assert load_state_dict(tmp_path / "plain.pt")["model.a"].equal(weight)
    assert load_state_dict(tmp_path / "legacy.pt")["a"].equal(weight)


def test_of_a_lightning_checkpoint_only_the_model_is_read(tmp_path):
    weights = {"model._orig_mod.a": torch.ones(2), "criterion.weight": torch.ones(1)}
    torch.save({"state_dict": weights, "pytorch-lightning_version": "2", "epoch": 3}, tmp_path / "l.ckpt")
    assert list(load_state_dict(tmp_path / "l.ckpt")) == ["a"]


def test_arguments_beside_the_weights_do_not_matter(tmp_path):
    torch.save({"model": {"a": torch.ones(1)}, "args": argparse.Namespace(lr=1), "epoch": 3}, tmp_path / "t.pth")
    assert list(load_state_dict(tmp_path / "t.pth")) == ["a"]


def test_a_safetensors_header_that_looks_like_a_pickle_is_read(tmp_path):
    for padding in range(400):
        save_file({"a": torch.zeros(1)}, tmp_path / "w", metadata={"x": "y" * padding})
        if (tmp_path / "w").read_bytes()[0] == 0x80:
            break
    assert (tmp_path / "w").read_bytes()[0] == 0x80
    assert load_state_dict(tmp_path / "w")["a"].tolist() == [0]


class Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_code_in_a_file_is_never_run(tmp_path):
    for new in (True, False):
        torch.save({"a": Evil(tmp_path / "ran")}, tmp_path / "evil.pth", _use_new_zipfile_serialization=new)
        with pytest.raises(CheckpointError, match="GLOBAL getattr.* not read.*convert it"):
            load_state_dict(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("new", [True, False])
def test_damaged_torch_files_are_a_checkpoint_error(tmp_path, new):
    torch.save({"a": torch.ones(50), "b": torch.ones(2)}, tmp_path / "w", _use_new_zipfile_serialization=new)
    whole = (tmp_path / "w").read_bytes()
    for position in range(2, 200):
        for damaged in (whole[:position], whole[:position] + b"\x93" + whole[position + 1 :]):
            (tmp_path / "w").write_bytes(damaged)
            with contextlib.suppress(CheckpointError):
                load_state_dict(tmp_path / "w")


def test_other_files_are_named_for_what_they_are(tmp_path):
    (tmp_path / "page").write_text("<!DOCTYPE html><html>Download anyway?</html>")
    (tmp_path / "noise").write_bytes(b"\x01noise" * 20)
    (tmp_path / "empty").touch()
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 3, "things": {"a": torch.ones(1)}}, tmp_path / "odd.pt")
    expected = {
        "page": "web page",
        "noise": "neither",
        "empty": "neither",
        "list.pt": "holds a list",
        "odd.pt": "entry 'epoch' is a int",
    }
    for name, message in expected.items():
        with pytest.raises(CheckpointError, match=message):
            load_state_dict(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        load_state_dict(tmp_path / "none")


def test_a_save_that_breaks_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    shared = torch.arange(4.0)
    save_state_dict({"a": shared, "b": shared[1:]}, path, {"epoch": "3"})
    assert load_state_dict(path)["b"].tolist() == [1, 2, 3] and read_metadata(path) == {"epoch": "3"}
    before = path.read_bytes()

    def broken(tensors, filename, metadata=None):
        Path(filename).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("blockzoo.checkpoints.io.save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        save_state_dict({"a": shared}, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["w.safetensors"]


def _holding_itself():
    content = {"a": torch.zeros(1)}
    content["state_dict"] = content
    return content


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_holding_itself(), "entry 'state_dict' is a dict"),
        ({1: torch.zeros(1)}, "an entry is named 1, which is no text"),
        ({"a": torch.zeros(1).expand(1 << 40)}, "far larger than the file"),
        ({"a": torch.zeros(1, device="meta")}, "tensor on meta; weights are dense tensors"),
        ({"a": torch.eye(3).to_sparse()}, "sparse_coo tensor on cpu; weights are dense"),
    ],
)
def test_torch_files_that_are_no_weights_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=message):
        load_state_dict(tmp_path / "w.pt")


def test_a_torch_file_that_unpacks_to_far_more_is_not_read(tmp_path):
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain:
        with zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed:
            for name in plain.namelist():
                packed.writestr(name, plain.read(name))
    with pytest.raises(CheckpointError, match=r"packed.pt would unpack from [\d,]+ to 4,\d+,\d+ bytes"):
        load_state_dict(tmp_path / "packed.pt")


LYING_HEADERS = {
    "longer than the file": struct.pack("<Q", 1 << 62) + b"{}",
    "beyond its end": b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
    "of tensors on top of each other": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    b'"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "of a shape that overflows": b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}}',
    "nested deeply": b'{"a":' * 100_000,
    "of no JSON": b"{]",
}


@pytest.mark.parametrize("kind", LYING_HEADERS)
@pytest.mark.parametrize("read", [load_state_dict, read_metadata])
def test_a_safetensors_header_that_lies_is_named(tmp_path, kind, read):
    header = LYING_HEADERS[kind]
    data = (
        header if header.endswith(b"\0{}") or header[:1] != b"{" else struct.pack("<Q", len(header)) + header + b"abcd"
    )
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="w.safetensors is .*damaged"):
        read(tmp_path / "w.safetensors")
