"""The manifest's format, and files of weights."""

import json
import os
from pathlib import Path

import pytest
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
    "license": "apache-2.0", "data_license": "cc-by-4.0", "origin": "ours", "metric": {}, "command": "x",
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
        ({"file": "../w"}, "file is '../w', expected a bare file name"),
        ({"origin": "theirs"}, "origin is 'theirs'"),
        ({"sources": [{"url": "x", "package": "y"}]}, "source has fields"),
        ({"sources": [{"hub_repo": "a/b", "hub_file": "w", "hub_revision": "main"}]}, "hub_revision is 'main'"),
    ],
)
def test_malformed_entries_are_explained(tmp_path, changes, message):
    assert manifest(tmp_path).size == 3
    with pytest.raises(CheckpointError, match=message):
        manifest(tmp_path, **changes)


def test_an_unknown_version_is_refused(tmp_path):
    (tmp_path / "m.json").write_text('{"format_version": 2, "checkpoints": {}}')
    with pytest.raises(CheckpointError, match="format_version is 2, expected 1"):
        load_manifest(tmp_path / "m.json")


@pytest.mark.parametrize("name", sorted(load_manifest()))
def test_every_entry_is_a_model_with_a_card_and_packaged_files_are_intact(name):
    artifact = load_manifest()[name]
    assert blockzoo.get_pretrained_cfg(name).checkpoint == name
    assert artifact.command and artifact.license and artifact.data_license
    if artifact.origin == "ours":
        assert str(artifact.metric["value"])[:4] in read_card(artifact)
        assert fetch(artifact).stat().st_size == artifact.size
        blockzoo.create_model(name, pretrained=True)


def test_every_pretrained_tag_has_an_entry():
    tags = [blockzoo.get_pretrained_cfg(name).checkpoint for name in blockzoo.list_pretrained()]
    assert set(filter(None, tags)) == set(load_manifest())


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
        with pytest.raises(CheckpointError, match="cannot be read safely"):
            load_state_dict(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_other_files_are_named_for_what_they_are(tmp_path):
    (tmp_path / "page").write_text("<!DOCTYPE html><html>Download anyway?</html>")
    (tmp_path / "noise").write_bytes(os.urandom(64).replace(b"\x80", b"x"))
    torch.save([1, 2], tmp_path / "list.pt")
    for name, message in {"page": "web page", "noise": "neither", "list.pt": "holds a list"}.items():
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
