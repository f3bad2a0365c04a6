"""Official weights: hashes that nobody has published are recorded once, and layouts load end to end."""

import hashlib
import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save

import blockzoo
from blockzoo import _builder
from blockzoo.checkpoints import CheckpointError, ChecksumError, Source, fetch, is_cached, load_manifest


def weights(seed):
    """The bytes of a file of weights, always as many."""
    generator = torch.Generator().manual_seed(seed)
    return save({"a": torch.randn(100_000, generator=generator)})


@pytest.fixture
def unhashed(artifact, server):
    """An official artifact without a hash."""

    server.body = weights(0)

    def make(file="w.bin", **changes):
        item = artifact(Source(url=f"{server.url}/{file}"))
        return replace(item, file=file, sha256=None, size=None, origin="official", **changes)

    return make


def test_the_first_download_is_recorded_and_the_next_must_match(unhashed, server, cache, debris):
    item = unhashed()
    assert not is_cached(item)
    path = fetch(item)
    assert path.read_bytes() == server.body and is_cached(item)
    lock = json.loads((cache / "published.lock.json").read_text())
    assert lock == {"model.tag": {"sha256": hashlib.sha256(server.body).hexdigest(), "size": len(server.body)}}
    requests = len(server.requests)
    assert fetch(item) == path and len(server.requests) == requests
    path.unlink()
    assert not is_cached(item)
    server.body = weights(2)
    with pytest.raises(ChecksumError, match=r"has sha256 [0-9a-f]{64}, expected [0-9a-f]{64}"):
        fetch(item)
    assert debris() == ["published.lock.json"]


def test_a_hash_in_the_file_name_is_checked_the_first_time(unhashed, server, cache, debris):
    digest = hashlib.sha256(server.body).hexdigest()
    assert fetch(unhashed(f"net-{digest[:8]}.pth")).exists()
    with pytest.raises(ChecksumError, match=r"its name says 01234567\.\."):
        fetch(unhashed("net-01234567.pth", name="other.tag"))
    assert not is_cached(unhashed("net-01234567.pth", name="other.tag"))


def test_broken_transfers_are_resumed_without_a_known_size(unhashed, server, cache):
    server.faults = ["truncate", "truncate"]
    assert fetch(unhashed()).read_bytes() == server.body


def test_a_web_page_never_reaches_the_cache(unhashed, server, cache, debris):
    server.body = b"<!DOCTYPE html><html>log in</html>"
    with pytest.raises(CheckpointError, match="web page instead of the file"):
        fetch(unhashed())
    assert not (cache / "published.lock.json").exists()


def test_a_file_that_changes_midway_is_fetched_anew(unhashed, server, cache):
    other = weights(1)
    server.faults = ["truncate", "swap"]
    server.other = other
    assert fetch(unhashed()).read_bytes() == other
    lock = json.loads((cache / "published.lock.json").read_text())
    assert lock["model.tag"]["sha256"] == hashlib.sha256(other).hexdigest()


def test_a_part_of_another_version_is_noticed_where_if_range_is_ignored(unhashed, server, cache):
    server.faults, server.other, server.if_range = ["truncate", "swap"], weights(1), False
    assert fetch(unhashed()).read_bytes() == server.other


def test_without_a_version_the_whole_is_asked_for_again(unhashed, server, cache):
    server.faults, server.tagged = ["truncate"], False
    assert fetch(unhashed()).read_bytes() == server.body
    assert [wanted for _, wanted in server.requests] == [None, None]


def test_bytes_of_an_earlier_call_are_not_mixed_in(unhashed, server, cache):
    server.faults = ["truncate", *[500] * 4]
    with pytest.raises(CheckpointError, match="gave up"):
        fetch(unhashed())
    server.body = weights(1)
    assert fetch(unhashed()).read_bytes() == server.body
    assert server.requests[-1][1] is None


def test_with_a_hash_a_file_that_changes_midway_restarts(artifact, server, cache):
    server.body = weights(1)
    item = artifact(body=weights(1))
    server.body = weights(0)
    server.faults, server.other = ["truncate", "swap"], weights(1)
    assert fetch(item).read_bytes() == weights(1)


def test_a_server_that_names_no_size_writes_nothing(unhashed, server, cache, debris):
    server.faults = ["whole-no-length"]
    with pytest.raises(CheckpointError, match="says how large the file is"):
        fetch(unhashed())
    assert debris() == []


def test_a_file_beyond_the_bound_is_refused_at_once(unhashed, server, cache, debris, monkeypatch):
    monkeypatch.setattr("blockzoo.checkpoints.transfer.UNSTATED_LIMIT", 1000)
    with pytest.raises(CheckpointError, match="without a published size 1,000 are taken"):
        fetch(unhashed())
    assert debris() == []


def test_another_encoding_is_refused(unhashed, server, cache, debris):
    server.encoding = "gzip"
    with pytest.raises(CheckpointError, match="in the encoding 'gzip', which was not asked for"):
        fetch(unhashed())
    assert debris() == []


def test_what_cannot_be_read_as_weights_is_not_recorded(unhashed, server, cache, debris):
    item = unhashed()
    server.body = server.body[:-4]
    with pytest.raises(CheckpointError, match="is neither a safetensors nor a torch file, or is damaged"):
        fetch(item)
    assert debris() == []


def test_a_damaged_record_is_named(unhashed, cache):
    cache.mkdir()
    (cache / "published.lock.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"published.lock.json is damaged .*; delete it"):
        fetch(unhashed())


def test_the_manifest_lists_the_official_weights_of_every_image_family():
    official = {name: item for name, item in load_manifest().items() if item.origin == "official"}
    families = {name.split("_")[0].split(".")[0] for name in official}
    assert {"nextvit", "emov2", "nasnetalarge", "nasnetamobile"} <= families and len(official) >= 20
    for name, item in official.items():
        if not blockzoo.is_model(name):  # a teacher, which timm builds
            continue
        cfg = blockzoo.get_pretrained_cfg(name)
        assert cfg.has_weights and cfg.checkpoint == name and 0.7 < item.metric["value"] < 0.95
    assert blockzoo.get_pretrained_cfg("nasnetalarge.cadene_in1k").model_args == {"pool_count": "real"}
    assert blockzoo.get_pretrained_cfg("emov2_5m.in1k_kd_512").input_size == (3, 512, 512)


@pytest.mark.parametrize("name", [name for name, item in load_manifest().items() if item.model_args])
def test_arguments_of_a_tag_win_over_those_of_the_model_and_lose_to_the_callers(name, monkeypatch):
    wanted = load_manifest()[name].model_args
    passed = {}

    def build(cls, variant, pretrained, **kwargs):
        passed.update(kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(_builder, "build_model_with_cfg", build)
    monkeypatch.setattr(_builder, "check_arguments", lambda *args, **kwargs: None)  # "mine" has no type of theirs
    with pytest.raises(KeyboardInterrupt):
        blockzoo.create_model(name)
    assert {key: passed[key] for key in wanted} == wanted
    key = next(iter(wanted))
    with pytest.raises(KeyboardInterrupt):
        blockzoo.create_model(name, **{key: "mine"})
    assert passed[key] == "mine"


OFFICIAL_EMO = {
    "stem.2.": "stage0.2.conv.",
    "stem.": "stage0.",
    "head.fc.": "head.",
    "stages.0.blocks.0.expand.pair.norm.": "stage1.0.norm.",
    "stages.0.blocks.0.expand.pair.conv.": "stage1.0.eops.0.net.conv.",
}


@pytest.mark.parametrize("wrapped", [None, "net_E"])
def test_official_files_adapt_to_classes_and_channels(tmp_path, wrapped):
    arch = {"depths": (1,), "embed_dims": (8,), "ratios": (2.0,), "strides": (2,), "attn_stages": (False,)}
    arch |= {"head_dims": (4,), "kernel_sizes": (3,), "out_indices": (0,)}
    source = blockzoo.create_model("emov2_cifar", num_classes=6, **arch)
    official = {}
    for name, value in source.state_dict().items():
        for ours, theirs in OFFICIAL_EMO.items():
            if name.startswith(ours):
                name = theirs + name.removeprefix(ours)
                break
        else:
            name = name.replace("stages.0.blocks.0.", "stage1.0.").replace("local.", "conv_local.")
            name = name.replace("proj.", "proj.conv.").replace("gamma", "ls.gamma")
            name = f"norm.{name}" if name.startswith("norm.") else name
        official[name] = value
    torch.save({wrapped: official} if wrapped else official, tmp_path / "emo.pth")
    overlay = {"file": str(tmp_path / "emo.pth"), "checkpoint": None, "num_classes": 6}
    same = blockzoo.create_model("emov2_cifar", pretrained=True, pretrained_cfg_overlay=overlay, **arch).eval()
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(same(x), source.eval()(x))
    other = {"num_classes": 5, "in_chans": 1, **arch}
    adapted = blockzoo.create_model("emov2_cifar", pretrained=True, pretrained_cfg_overlay=overlay, **other)
    torch.testing.assert_close(adapted.stem[0].conv.weight, source.stem[0].conv.weight.sum(1, keepdim=True))
    assert adapted(torch.randn(1, 1, 32, 32)).shape == (1, 5)


def test_others_can_read_what_a_shared_cache_records(unhashed, server, cache):
    mask = os.umask(0o022)
    try:
        path = fetch(unhashed())
        assert is_cached(unhashed())  # leaves a stamp
    finally:
        os.umask(mask)
    for file in (cache / "published.lock.json", path.with_name(f"{path.name}.verified")):
        assert file.stat().st_mode & 0o777 == 0o644
