"""Files fetched by hand: adopted if they fit, refused with a reason if not; web pages never reach the cache."""

import json
import os

import pytest
import torch

import blockzoo
from blockzoo.__main__ import main
from blockzoo.checkpoints import (
    CheckpointError,
    ChecksumError,
    DownloadError,
    Source,
    adopt,
    fetch,
    is_cached,
    load_manifest,
    save_state_dict,
)
from blockzoo.checkpoints.verification import file_text
from blockzoo.tasks.app.convert import read_as

NAME = "p3d199.kinetics_rgb"
PAGE = (
    b"\n<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>Download anyway</body>"
)


@pytest.fixture
def official(monkeypatch, cache):
    """A small model under the name of official weights, and the manifest's entry."""
    artifact = load_manifest()["emov2_1m.in1k"]
    arch = {"depths": (1,), "embed_dims": (8,), "ratios": (2.0,), "strides": (2,), "attn_stages": (False,)}
    arch |= {"head_dims": (4,), "kernel_sizes": (3,), "out_indices": (0,)}
    entrypoint = blockzoo.model_entrypoint("emov2_1m")
    monkeypatch.setattr("blockzoo._registry.model_entrypoint", lambda name: lambda **kw: entrypoint(**{**arch, **kw}))
    return artifact


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*args):
        status = main(args)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_a_file_is_adopted_found_by_create_model_and_pinned(official, call, tmp_path, cache):
    source = blockzoo.create_model("emov2_1m", num_classes=1000)
    torch.save({"net_E": source.state_dict(), "net": {}, "epoch": 3}, tmp_path / "EMOv2_1M_224.pth")
    assert not is_cached(official)
    status, out, err = call("convert", "EMOv2_1M_224.pth", "--as", official.name)
    assert status == 0 and "fits emov2_1m.in1k" in out and "none stated" in out, err
    assert is_cached(official) and fetch(official).suffix == ".safetensors"
    model = blockzoo.create_model(official.name, pretrained=True)
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in model.state_dict().items())
    record = json.loads((cache / "published.lock.json").read_text())[official.name]
    assert set(record) == {"sha256", "size", "adopted"}
    torch.save({"net": source.state_dict(), "epoch": 4}, tmp_path / "other.pth")
    status, _, err = call("convert", "other.pth", "--as", official.name)
    assert status == 2 and "expected" in err and fetch(official).exists()
    assert sorted(name for _, _, names in os.walk(cache) for name in names if name.endswith(".part")) == []


def test_a_damaged_adopted_file_is_not_used(official, call, tmp_path):
    torch.save(blockzoo.create_model("emov2_1m").state_dict(), tmp_path / "w.pth")
    assert call("convert", "w.pth", "--as", official.name)[0] == 0
    path = fetch(official)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    os.utime(path, ns=(1, 1))
    assert not is_cached(official)
    assert call("convert", "w.pth", "--as", official.name)[0] == 0 and fetch(official) == path


def test_wrong_layouts_are_named_tensor_by_tensor(official, call, tmp_path):
    weights = blockzoo.create_model("emov2_1m").state_dict()
    name = "head.fc.weight"
    cases = {
        "less": ({key: value for key, value in weights.items() if key != name}, f"{name} is missing"),
        "more": ({**weights, "extra": torch.ones(1)}, "extra is unknown"),
        "shape": ({**weights, name: torch.ones(3, 8)}, f"{name} has shape (3, 8) and not (1000, 8)"),
        "nan": ({**weights, name: weights[name] * float("nan")}, f"{name} has values that are not finite"),
        "alien": ({"layer1.0.weight": torch.ones(1)}, "is missing"),
    }
    for file, (tensors, message) in cases.items():
        save_state_dict(tensors, tmp_path / file)
        status, _, err = call("convert", file, "--as", official.name)
        assert status == 2 and message in err and "Traceback" not in err
    assert not is_cached(official)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_pages_code_and_unknown_names_are_refused(official, call, tmp_path):
    (tmp_path / "page.pth").write_bytes(PAGE)
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    for file, message in (("page.pth", "web page"), ("evil.pth", "not read"), ("none.pth", "No such file")):
        status, _, err = call("convert", file, "--as", official.name)
        assert status == 2 and message in err
    assert not (tmp_path / "ran").exists() and not is_cached(official)
    assert "names no official weights; give --out" in call("convert", "page.pth", "--as", "emov2_1m")[2]
    assert "--arg goes with --out" in call("convert", "x", "--as", official.name, "--arg", "num_classes=3")[2]


def test_any_model_is_converted_to_a_file(call, tmp_path):
    model = blockzoo.create_model("tdn_l1", hidden_channels=8, depth=1, num_heads=2)
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "t.pth"
    )
    args = [f"--arg={text}" for text in ("hidden_channels=8", "depth=1", "num_heads=2")]
    status, out, err = call("convert", "t.pth", "--as", "tdn_l1", "--out", "t.safetensors", *args)
    assert status == 0 and "written to t.safetensors" in out, err
    again = read_as("t.safetensors", "tdn_l1", {"hidden_channels": 8, "depth": 1, "num_heads": 2})
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())


def test_teachers_of_timm_are_known_by_name(tmp_path, monkeypatch):
    import timm

    small = timm.create_model("vit_small_patch14_reg4_dinov2", depth=1, embed_dim=32, num_heads=2, img_size=28)
    official = {key: value for key, value in small.state_dict().items()}
    torch.save(official, tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    args = {"depth": 1, "embed_dim": 32, "num_heads": 2, "img_size": 28}
    found = read_as(tmp_path / "dinov2_vits14_reg4_pretrain.pth", "vit_small_patch14_reg4_dinov2.lvd142m", args)
    assert set(found) == set(official)
    fetched = []
    monkeypatch.setattr("blockzoo.checkpoints.fetch", lambda artifact, cache_dir: fetched.append(artifact) or "none")
    with pytest.raises(FileNotFoundError):
        blockzoo.create_model("timm:vit_small_patch14_reg4_dinov2", pretrained=True, **args)
    assert [item.name for item in fetched] == ["vit_small_patch14_reg4_dinov2.lvd142m"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (PAGE, "a web page"),
        (b"\xef\xbb\xbf<html>", "a web page"),
        (b"<?xml version='1.0'?><Error/>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "a Git LFS pointer"),
        (b'{"error": "quota exceeded"}', "text"),
        (b"\x3c\0\0\0\0\0\0\0{" + b" " * 60, None),
        (b"PK\x03\x04", None),
        (b"\x80\x02}q\x00.", None),
        (b"", None),
    ],
)
def test_text_is_told_from_weights(tmp_path, text, what):
    (tmp_path / "f").write_bytes(text)
    found = file_text(tmp_path / "f")
    assert found == what or (found is not None and found.startswith(what or "?"))


@pytest.mark.parametrize("body", [PAGE, b"Too many requests", b"version https://git-lfs.github.com/spec/v1\n"])
@pytest.mark.parametrize("kind", ["application/octet-stream", "text/html; charset=utf-8"])
def test_pages_never_reach_the_cache_and_the_way_by_hand_is_told(server, cache, artifact, debris, body, kind):
    from dataclasses import replace

    server.body, server.content_type = body, kind
    item = replace(artifact(Source(url=f"{server.url}/w.bin")), sha256=None, size=None, origin="official")
    with pytest.raises(DownloadError) as caught:
        fetch(item)
    message = str(caught.value)
    assert "instead of the file" in message and f"open {server.url}/w.bin in a browser" in message
    assert "blockzoo convert w.bin --as model.tag" in message
    assert debris() == [] and not (cache / "published.lock.json").exists()


def test_a_page_that_the_user_put_into_the_cache_is_not_recorded(server, cache, artifact, debris):
    from dataclasses import replace

    from blockzoo.checkpoints import cache_path

    item = replace(artifact(), sha256=None, size=None, origin="official")
    cache_path(item).parent.mkdir(parents=True)
    cache_path(item).write_bytes(PAGE)
    with pytest.raises(DownloadError, match="a web page instead of the file"):
        fetch(item)
    assert debris() == []


def test_adoption_checks_the_hash_in_the_file_name(tmp_path, cache):
    (tmp_path / "nasnet.pth").write_bytes(b"PK\x03\x04 and so on \x00")
    with pytest.raises(ChecksumError, match=r"its name says a1897284\.\."):
        adopt(load_manifest()["nasnetalarge.cadene_in1k"], tmp_path / "nasnet.pth", lambda part: None)


def test_every_official_entry_says_where_under_which_licence_in_which_layout_and_how_good():
    official = {name: item for name, item in load_manifest().items() if item.origin == "official"}
    counts = {"nextvit": 12, "emov2": 7, "nasnet": 3, "p3d199": 2, "vit": 8}
    assert {key: sum(name.startswith(key) for name in official) for key in counts} == counts
    for item in official.values():
        assert item.sources and item.conversion and 0.7 < item.metric["value"] < 0.95 and item.license


def test_downloads_announce_and_sort_by_licence(call, monkeypatch, cache):
    from blockzoo.tasks.app import download

    asked = []

    def refuse(artifact, cache_dir):
        asked.append(artifact.name)
        raise CheckpointError(f"{artifact.name} could not be fetched")

    monkeypatch.setattr(download, "fetch", refuse)
    status, out, err = call("download", "--published")
    assert status == 1 and "emov2_1m.in1k (none stated by the authors)" in err and "emov2_1m.in1k" not in asked
    assert "ImageNet terms of access" in out and "nextvit_small.bd_in1k" in asked
    asked.clear()
    status, out, _ = call("download", "--all-licences")
    assert asked == list(load_manifest()) and out.index("none stated by the authors") < out.index("bytes")
    status, out, err = call("download", NAME)
    assert status == 2 and "MIT" in out and "could not be fetched" in err
    assert call("download", "--all-licences", "--list")[0] == 0
