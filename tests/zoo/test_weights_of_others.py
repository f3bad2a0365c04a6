"""Weights and configurations that come from elsewhere: wrapped, adapted, incomplete or hostile."""

import json

import numpy as np
import pytest
import torch

import blockzoo
from blockzoo.checkpoints import CheckpointError

EMO = {"depths": (1,), "embed_dims": (8,), "ratios": (2.0,), "strides": (2,), "attn_stages": (False,)}
EMO |= {"head_dims": (4,), "kernel_sizes": (3,), "out_indices": (0,)}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return blockzoo.create_model("emov2_cifar", num_classes=6, **EMO).eval()


def prefixed(prefix, model):
    return {f"{prefix}{name}": value for name, value in model.state_dict().items()}


WRAPPINGS = {
    "compiled in data parallel": lambda m: prefixed("module._orig_mod.", m),
    "task of a compiled model": lambda m: prefixed("model._orig_mod.", m),
    "the other way round": lambda m: prefixed("_orig_mod.module.", m),
    "averaged": lambda m: {"n_averaged": torch.tensor(3), **prefixed("module.", m)},
    "averaged, compiled, in a task": lambda m: {
        "n_averaged": torch.tensor(3),
        **prefixed("module.model._orig_mod.", m),
    },
    "scores of NumPy": lambda m: {"state_dict": m.state_dict(), "best_acc": np.float64(0.5), "epoch": np.int64(3)},
    "nested": lambda m: {"model": {"state_dict": prefixed("module.", m)}, "flag": np.bool_(True)},
}


@pytest.mark.parametrize("case", WRAPPINGS)
def test_wrapped_weights_are_the_weights(tmp_path, model, case):
    torch.save(WRAPPINGS[case](model), tmp_path / "w.pth")
    loaded = blockzoo.create_model("emov2_cifar", num_classes=6, checkpoint_path=tmp_path / "w.pth", **EMO)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_numpy_objects_beside_the_weights_are_refused(tmp_path, model):
    torch.save({"state_dict": model.state_dict(), "log": np.array([print], dtype=object)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="Python objects beside tensors"):
        blockzoo.create_model("emov2_cifar", num_classes=6, checkpoint_path=tmp_path / "w.pth", **EMO)


@pytest.mark.parametrize(
    "change", [{"num_classes": 4}, {"in_chans": 1}, {"num_classes": 0}, {"features_only": True, "out_indices": (0,)}]
)
def test_a_file_of_weights_adapts_as_a_folder_does(tmp_path, model, change):
    blockzoo.save_pretrained(model, tmp_path)
    file = tmp_path / "model.safetensors"
    arguments = {"num_classes": 6, **EMO, **change}
    torch.manual_seed(1)
    by_file = blockzoo.create_model("emov2_cifar", checkpoint_path=file, **arguments)
    torch.manual_seed(1)
    by_folder = blockzoo.from_pretrained(tmp_path, **change)
    assert by_file.state_dict().keys() == by_folder.state_dict().keys()
    stem = next(name for name in by_file.state_dict() if name.endswith("0.conv.weight") and "stem" in name)
    theirs = model.state_dict()[stem.replace("stem_0", "stem.0")]
    expected = theirs.sum(1, keepdim=True) if "in_chans" in change else theirs
    torch.testing.assert_close(by_file.state_dict()[stem], expected)
    for name, value in by_file.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(value, by_folder.state_dict()[name]), name
    if change.get("num_classes") == 4:
        assert by_file(torch.randn(1, 3, 32, 32)).shape == (1, 4)


def test_channels_of_the_file_are_read_from_it(tmp_path):
    source = blockzoo.create_model("emov2_cifar", num_classes=6, in_chans=2, **EMO)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    grey = blockzoo.create_model("emov2_cifar", num_classes=6, in_chans=1, checkpoint_path=tmp_path / "w.pth", **EMO)
    assert grey.pretrained_cfg["input_size"][0] == 1
    torch.testing.assert_close(grey.stem[0].conv.weight, source.stem[0].conv.weight.sum(1, keepdim=True))


def test_other_classes_than_the_default_are_not_dropped_in_silence(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w.pth has 6 classes and the model 10: give num_classes=6 to use them"):
        blockzoo.create_model("emov2_cifar", checkpoint_path=tmp_path / "w.pth", **EMO)


def test_foreign_weights_are_not_taken_loosely(tmp_path, model):
    kept = {name: value for name, value in model.state_dict().items() if name.startswith("head")}
    torch.save(kept, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="w.pth does not fit EMOv2: it lacks stem"):
        blockzoo.create_model("emov2_cifar", num_classes=4, checkpoint_path=tmp_path / "w.pth", **EMO)


def test_a_folder_without_weights_says_so(tmp_path, model):
    blockzoo.save_pretrained(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert blockzoo.create_model(f"local-dir:{tmp_path}").num_classes == 6
    with pytest.raises(CheckpointError, match=f"{tmp_path} holds no weights: it has no model.safetensors or"):
        blockzoo.from_pretrained(tmp_path)


def nested(depth):
    return '{"architecture": "emov2_cifar", "model_args": ' + '{"a": ' * depth + "1" + "}" * depth + "}"


@pytest.mark.parametrize("text", [nested(30), nested(200_000), "", "\x80", "[]", '{"architecture": "os.system"}'])
def test_a_configuration_that_is_none_is_named(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"config.json"):
        blockzoo.create_model(f"local-dir:{tmp_path}")


@pytest.mark.parametrize("name", ["checkpoint_path", "cache_dir", "pretrained_cfg_overlay", "feature_cls"])
def test_a_folder_does_not_speak_for_the_caller(tmp_path, model, name):
    blockzoo.save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"][name] = "/etc/passwd"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"model_args holds {name}, which only the caller may give"):
        blockzoo.from_pretrained(tmp_path)


def test_a_folder_does_not_say_where_its_weights_are(tmp_path, model):
    blockzoo.save_pretrained(model, tmp_path / "good")
    other = blockzoo.create_model("emov2_cifar", num_classes=6, **EMO)
    torch.save(other.state_dict(), tmp_path / "elsewhere.pth")
    file = tmp_path / "good" / "config.json"
    config = json.loads(file.read_text())
    away = {"file": str(tmp_path / "elsewhere.pth"), "url": "file:///elsewhere.pth", "custom_load": True}
    config["pretrained_cfg"] |= {**away, "checkpoint": "nextvit_cifar.cifar10", "hf_hub_id": "org/name"}
    file.write_text(json.dumps(config))
    loaded = blockzoo.from_pretrained(tmp_path / "good")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_model_that_no_memory_holds_is_refused_with_its_arguments():
    with pytest.raises(ValueError, match=r"timesnet_forecast cannot be built with d_model=1000000000000"):
        blockzoo.create_model("timesnet_forecast", d_model=10**12)
