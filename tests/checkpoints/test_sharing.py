"""Models that are shared: a folder or a hub's repository, read back by us and by timm, whatever the hub does."""

import base64
import hashlib
import http.server
import json
import threading
import time

import pytest
import timm
import torch

import blockzoo
from blockzoo.checkpoints import (
    CheckpointError,
    ChecksumError,
    DownloadError,
    OfflineError,
    fetch_hub,
    load_state_dict,
)

COMMIT = "0123456789" * 4
EMO = {"depths": (1,), "embed_dims": (8,), "ratios": (2.0,), "strides": (2,), "attn_stages": (False,)}
EMO |= {"head_dims": (4,), "kernel_sizes": (3,), "num_classes": 3, "out_indices": (0,)}
GRAPH = {"hidden_channels": 8, "depth": 1, "num_basis": 6, "radial_hidden": 8, "num_heads": 2}
MODELS = {
    "emov2_cifar": EMO,
    "nextvit_small": {"depths": (1, 1, 1, 1), "num_classes": 3},
    "nasnet_cifar": {"num_cells": 1, "in_chans": 1},
    "p3d_tiny": {"num_classes": 5},
    "raptor": {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 28, "num_classes": 4},
    "timesnet_forecast": {"seq_len": 16, "pred_len": 4, "d_model": 4, "d_ff": 4, "time_freq": None},
    "tfno2d": {"n_modes": (4, 4), "hidden_channels": 4, "depth": 1},
    "tdn": {**GRAPH, "l_max": 1},
}


class Hub(http.server.ThreadingHTTPServer):
    """The parts of the hub's interface that uploads and downloads use; `fault` spoils downloads of weights."""

    daemon_threads = True

    def __init__(self):
        self.files, self.fault, self.created, self.sent = {}, None, [], 0
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """Clients that hang up are part of the tests."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _send(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        hub, sent = self.server, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = {}
        if hub.fault == "forbidden":
            self._send(403, b'{"error": "no"}', Content_Type="application/json")
            return
        if self.path == "/api/repos/create":
            hub.created.append(json.loads(sent)["name"])
            answer = {"url": f"{hub.url}/org/name"}
        elif "/preupload/" in self.path:
            paths = [item["path"] for item in json.loads(sent)["files"]]
            answer = {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]}
        elif "/commit/" in self.path:
            for line in map(json.loads, sent.decode().strip().split("\n")):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {"commitUrl": f"{hub.url}/org/name/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
        self._send(200, json.dumps(answer).encode(), Content_Type="application/json")

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, name = self.server, self.path.split("?")[0].rpartition("/")[2]
        body = hub.files.get(name)
        if body is None:
            self._send(404, b"", X_Error_Code="EntryNotFound")
            return
        digest = hashlib.sha256(body).hexdigest()
        fault = hub.fault if name.endswith(".safetensors") else None
        if fault == 404:
            self._send(404, b"", X_Error_Code="RepoNotFound")
            return
        if fault == "page":
            body = b"<!DOCTYPE html><html>log in</html>"
        if fault == "hash" and self.command == "GET":
            body = body[:-1] + b"!"
        if self.command == "GET" and hub.fault == "endless":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            for _ in range(256):  # 256 MB, unless the client hangs up
                self.wfile.write(bytes(1 << 20))
                hub.sent += 1 << 20
            return
        if self.command == "HEAD" or fault not in ("truncated", "stall"):
            self._send(200, body, ETag=f'"{digest}"', X_Linked_Etag=f'"{digest}"', X_Linked_Size=len(body))
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        if fault == "stall":
            time.sleep(1.5)
        self.close_connection = True


@pytest.fixture
def hub(monkeypatch, tmp_path):
    from huggingface_hub import constants, file_download

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "HF_HUB_OFFLINE", "BLOCKZOO_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    hub = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 2)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None, raising=False)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield hub
    hub.shutdown()
    thread.join()
    hub.server_close()


def spoilt(**entries):
    """A folder's config with wrong entries."""
    return json.dumps({"architecture": "nasnet_cifar", "pretrained_cfg": entries})


def same(model, other):
    inputs = model.eval().example_inputs(2)
    ours, theirs = model(**inputs), other.eval()(**inputs)
    ours, theirs = (list(y.values()) if isinstance(y, dict) else [y] for y in (ours, theirs))
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_every_family_is_saved_and_read_back(name, tmp_path):
    model = blockzoo.create_model(name, **MODELS[name])
    folder = blockzoo.save_pretrained(model, tmp_path / "m", license="cc0-1.0")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    card = (folder / "README.md").read_text()
    assert "license: cc0-1.0" in card and f'create_model("local-dir:{folder}"' in card
    again = blockzoo.from_pretrained(folder)
    assert type(again) is type(model) and same(model, again)
    assert again.pretrained_cfg["license"] == "cc0-1.0"
    if model.modality == "image":
        assert same(model, timm.create_model(f"local-dir:{folder}", pretrained=True))
        assert timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7).num_classes == 7


def test_pretrained_weights_keep_what_belongs_to_them(tmp_path):
    model = blockzoo.create_model("nextvit_cifar.cifar10", pretrained=True)
    again = blockzoo.from_pretrained(blockzoo.save_pretrained(model, tmp_path / "m"))
    for key in ("mean", "std", "label_names", "input_size", "crop_pct"):
        assert tuple(again.pretrained_cfg[key]) == tuple(model.pretrained_cfg[key]) if key != "crop_pct" else True
    model.reset_classifier(3)
    config = json.loads((blockzoo.save_pretrained(model, tmp_path / "m") / "config.json").read_text())
    assert config["num_classes"] == 3 and "label_names" not in config["pretrained_cfg"]
    assert blockzoo.from_pretrained(tmp_path / "m").num_classes == 3


def test_what_cannot_be_read_back_is_not_saved(tmp_path):
    model = blockzoo.create_model("nasnet_cifar", num_cells=1)
    blockzoo.save_pretrained(model, tmp_path / "m")
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"before deploy\(\)"):
        blockzoo.save_pretrained(model.deploy(), tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before
    assert not list((tmp_path / "m").glob(".*"))
    with pytest.raises(TypeError, match="model of the zoo, not Linear"):
        blockzoo.save_pretrained(torch.nn.Linear(1, 1), tmp_path / "n")
    with pytest.raises(TypeError, match="no argument 'colour'"):
        blockzoo.save_pretrained(blockzoo.create_model("nasnet_cifar", num_cells=1), tmp_path / "n", colour="red")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "has no config.json"),
        ("[" * 100_000, "nested too deeply"),
        ('{"architecture": "nasnet_cifar", "x": ' + "[" * 900 + "]" * 900 + "}", "nested more than 16 levels"),
        ('{"architecture": "nasnet_cifar", "num_classes": ' + "9" * 5000 + "}", "does not describe a model"),
        (json.dumps({"architecture": "nasnet_cifar", "x": "a" * (16 << 20)}), "bytes, more than 16,777,216"),
        (spoilt(num_classes="os.system"), "num_classes is 'os.system', which must be a whole number"),
        (spoilt(task=5), "task is '5', but nasnet_cifar has 'classification'"),
        (spoilt(modality="series"), "modality is 'series', but nasnet_cifar has 'image'"),
        (spoilt(surprise=1), "unknown entries surprise"),
        (json.dumps({"architecture": "nasnet_cifar", "pretrained_cfg": [1]}), "pretrained_cfg is '.1.', which must be"),
        (json.dumps({"architecture": "nasnet_cifar", "pretrained_cfg": {}, "model_args": [1]}), "model_args is"),
        ("{", "does not describe a model"),
        ("[]", "does not describe a model: it names no architecture"),
        ('{"architecture": "resnet999", "pretrained_cfg": {}}', "unknown model 'resnet999'"),
    ],
)
def test_folders_that_are_no_models_are_named(tmp_path, config, message):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        blockzoo.create_model(f"local-dir:{tmp_path}", pretrained=True)


def test_a_pushed_model_is_read_from_the_hub_by_us_and_by_timm(hub, tmp_path):
    model = blockzoo.create_model("emov2_cifar", **EMO)
    name = blockzoo.push_to_hub(model, "org/name", license="mit")
    assert name == "hf-hub:org/name" and hub.created == ["name"]
    assert set(hub.files) == {"model.safetensors", "config.json", "README.md"}
    assert b'create_model("hf-hub:org/name"' in hub.files["README.md"] and b"license: mit" in hub.files["README.md"]
    again = blockzoo.create_model(name, pretrained=True, cache_dir=tmp_path / "a")
    assert same(model, again)
    assert same(model, timm.create_model(name, pretrained=True, cache_dir=tmp_path / "b"))
    assert blockzoo.create_model(f"{name}@main", cache_dir=tmp_path / "a").num_classes == 3


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("truncated", DownloadError, "could not be fetched"),
        ("stall", DownloadError, "could not be fetched"),
        ("hash", ChecksumError, r"has sha256 [0-9a-f]{64}, the hub says [0-9a-f]{64}"),
        ("page", CheckpointError, "hf-hub:org/name .model.safetensors."),
        (404, DownloadError, "could not be fetched"),
    ],
)
def test_a_hub_that_fails_is_named_and_nothing_is_loaded(hub, tmp_path, fault, error, message):
    blockzoo.push_to_hub(blockzoo.create_model("emov2_cifar", **EMO), "org/name")
    hub.fault = fault
    with pytest.raises(error, match=message):
        blockzoo.create_model("hf-hub:org/name", pretrained=True, cache_dir=tmp_path)
    hub.fault = None
    assert blockzoo.create_model("hf-hub:org/name", pretrained=True, cache_dir=tmp_path).num_classes == 3


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_hub_that_never_ends_is_broken_off(hub, tmp_path, monkeypatch, name):
    monkeypatch.setattr("blockzoo.checkpoints.hub.UNSTATED_LIMIT", 16 << 20)
    hub.files, hub.fault = {name: b"{}"}, "endless"
    with pytest.raises(DownloadError, match="is larger than the 16,777,216 bytes that are taken"):
        fetch_hub("org/name", (name,), tmp_path)
    assert hub.sent < 64 << 20


def test_refusals_and_offline_mode(hub, tmp_path, monkeypatch):
    model = blockzoo.create_model("emov2_cifar", **EMO)
    with pytest.raises(ValueError, match="must be 'organisation/name'"):
        blockzoo.push_to_hub(model, "name")
    hub.fault = "forbidden"
    with pytest.raises(CheckpointError, match=r"org/name could not be written: .*403"):
        blockzoo.push_to_hub(model, "org/name")
    with pytest.raises(DownloadError, match="has no file other.bin"):
        fetch_hub("org/name", ("other.bin",), tmp_path)
    monkeypatch.setenv("BLOCKZOO_OFFLINE", "1")
    with pytest.raises(OfflineError, match=r"hf-hub:org/name .config.json. is not cached and offline mode is on"):
        blockzoo.create_model("hf-hub:org/name", cache_dir=tmp_path)
    with pytest.raises(OfflineError, match="cannot be written to"):
        blockzoo.push_to_hub(model, "org/name")


def test_weights_under_the_second_name_are_found_offline_too(hub, tmp_path, monkeypatch):
    torch.save({"w": torch.ones(2)}, tmp_path / "w.bin")
    hub.files["pytorch_model.bin"] = (tmp_path / "w.bin").read_bytes()
    online = fetch_hub("org/name", cache_dir=tmp_path / "cache")
    monkeypatch.setenv("BLOCKZOO_OFFLINE", "1")
    assert fetch_hub("org/name", cache_dir=tmp_path / "cache") == online and online.name == "pytorch_model.bin"


def test_saved_weights_are_plain_safetensors(tmp_path):
    model = blockzoo.create_model("tdn", **GRAPH)
    weights = load_state_dict(blockzoo.save_pretrained(model, tmp_path / "m") / "model.safetensors")
    assert weights.keys() == model.state_dict().keys()
