"""Names, tags, arguments and sources of models."""

import json
import sys
import types
import warnings
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models._registry import generate_default_cfgs

import blockzoo
from blockzoo._about import FamilyAbout
from blockzoo._cfg import ZooCfg
from blockzoo._registry import _entries, family_about, family_modules


def test_listing_follows_filters():
    everything = blockzoo.list_models()
    assert {"timesnet_anomaly", "timesnet_classifier", "timesnet_forecast", "timesnet_imputation"} <= set(everything)
    assert blockzoo.list_models("*_fore*") == ["timesnet_forecast"]
    assert blockzoo.list_models(["*_fore*", "*_imp*"]) == ["timesnet_forecast", "timesnet_imputation"]
    assert blockzoo.list_models(task="classification", family="timesnet") == ["timesnet_classifier"]
    assert blockzoo.list_models("timesnet*", exclude_filters="*er") == [
        name for name in everything if name.startswith("timesnet") and not name.endswith("er")
    ]
    assert blockzoo.list_models(family="nothing") == []
    assert "timesnet" in blockzoo.list_families(modality="series")
    assert blockzoo.is_model("timesnet_forecast.any_tag") and not blockzoo.is_model("resnet50")
    assert blockzoo.model_entrypoint("timesnet_forecast").__name__ == "timesnet_forecast"


def test_families_are_found_by_their_files():
    """Every public module of the folder registers models, and nothing else does."""
    files = {path.stem for path in Path(blockzoo.__file__).parent.glob("*.py") if not path.name.startswith("_")}
    assert set(family_modules()) == files == set(blockzoo.list_families())


def test_a_family_is_found_wherever_the_package_looks(tmp_path, monkeypatch):
    monkeypatch.setattr(blockzoo, "__path__", [*blockzoo.__path__, str(tmp_path)])
    (tmp_path / "newfamily.py").touch()
    (tmp_path / "_helper.py").touch()
    (tmp_path / "subpackage").mkdir()
    (tmp_path / "subpackage" / "__init__.py").touch()
    assert set(family_modules()) - set(blockzoo.list_families()) == {"newfamily"}


@pytest.mark.parametrize("name", family_modules())
def test_every_family_says_what_it_is_for(name):
    about = family_about(name)
    assert isinstance(sys.modules[f"blockzoo.{name}"].about, FamilyAbout)  # in words of its own
    assert about.title and about.paper and 2000 < about.year < 2100
    assert about.purpose[0].isupper() and about.purpose.endswith(".") and len(about.purpose) <= 240
    assert about.part_of in ("", *blockzoo.list_families())


def test_a_family_without_words_is_described_by_its_docstring(family, monkeypatch):
    sys.modules["blockzoo_test_family"].__doc__ = "For tests:\n    of lists.\n\nMore."
    family("blockzoo_described")
    about = family_about("blockzoo_test_family")
    assert (about.title, about.purpose, about.year) == ("blockzoo_test_family", "For tests: of lists.", 0)
    with pytest.raises(ValueError, match="unknown family 'nope'; the families are blockzoo_test_family, emov2"):
        family_about("nope")


def test_configurations_are_copies_that_serialise():
    cfg = blockzoo.get_pretrained_cfg("timesnet_forecast")
    cfg.input_size = (1, 1)
    assert blockzoo.get_pretrained_cfg("timesnet_forecast").input_size == (36, 1)  # of the tag with weights
    assert json.loads(json.dumps(cfg.to_dict()))["input_axes"] == "TC"


@pytest.mark.parametrize(
    ("name", "kwargs", "error", "message"),
    [
        ("timesnet_forcast", {}, ValueError, "did you mean timesnet_forecast"),
        ("resnet50", {}, ValueError, "timm has it: use 'timm:resnet50'"),
        ("zzz", {}, ValueError, "unknown model 'zzz'; blockzoo.list_models"),
        ("timesnet_forecast.nope", {}, ValueError, "no pretrained tag 'nope'; its tags:"),
        ("org/name", {}, ValueError, "hf-hub:org/name"),
        ("ftp:org/name", {}, ValueError, "Unknown model source 'ftp'"),
        ("timesnet_forecast", {"d_modle": 3}, TypeError, "'d_modle'; did you mean 'd_model'.*it takes seq_len"),
        ("fno3d", {"pretrained": True}, RuntimeError, "no pretrained weights for fno3d"),
        ("timesnet_forecast", {"pretrained_cfg_overlay": {"foo": 1}}, TypeError, "unknown entry 'foo'"),
    ],
)  # fmt: skip
def test_mistakes_are_explained(name, kwargs, error, message):
    with pytest.raises(error, match=message):
        blockzoo.create_model(name, **kwargs)


def test_none_means_the_default():
    assert blockzoo.create_model("timesnet_classifier", num_classes=None, drop_rate=None).num_classes == 9


def test_checkpoint_path_takes_both_layouts_and_is_strict(tmp_path):
    model = blockzoo.create_model("timesnet_anomaly", d_model=4, d_ff=4)
    ours = model.state_dict()
    names = {"blocks.": "model.", ".conv1.": ".conv.0.", ".conv2.": ".conv.2.", "norm.": "layer_norm."}
    names |= {"embed.value.": "enc_embedding.value_embedding.tokenConv.", "head.": "projection."}
    official = {}
    for name, value in ours.items():
        for new, old in names.items():
            name = name.replace(new, old)
        official[name] = value
    official["enc_embedding.temporal_embedding.embed.weight"] = torch.zeros(4, 4)
    save_file(ours, tmp_path / "ours.safetensors")
    torch.save({"state_dict": official}, tmp_path / "official.pth")
    x = model.example_inputs()["x"]
    for file in ("ours.safetensors", "official.pth"):
        loaded = blockzoo.create_model("timesnet_anomaly", d_model=4, d_ff=4, checkpoint_path=tmp_path / file)
        torch.testing.assert_close(loaded.eval()(x), model.eval()(x))
    with pytest.raises(RuntimeError, match="size mismatch"):
        blockzoo.create_model("timesnet_anomaly", d_model=5, d_ff=4, checkpoint_path=tmp_path / "ours.safetensors")


def test_a_local_folder_is_a_model(tmp_path):
    model = blockzoo.create_model("timesnet_classifier", seq_len=20, in_chans=3, num_classes=4).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "timesnet_classifier", "num_classes": 4, "pretrained_cfg": {"mean": [1.0, 2.0, 3.0]}}
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_args": {"seq_len": 20, "in_chans": 3}}))
    loaded = blockzoo.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    inputs = model.example_inputs(2)
    torch.testing.assert_close(loaded(**inputs), model(**inputs))
    assert loaded.pretrained_cfg["input_size"] == (20, 3) and loaded.pretrained_cfg["mean"] == [1.0, 2.0, 3.0]
    other = blockzoo.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7)
    assert other(**inputs).shape == (2, 7)


def test_timm_names_with_prefix_are_timms():
    model = blockzoo.create_model("timm:resnet10t", num_classes=3)
    assert type(model).__module__ == "timm.models.resnet" and model.num_classes == 3


class TinyImageModel(blockzoo.ZooModel):
    """A small network with timm's conventions."""

    task, modality = "classification", "image"

    def __init__(self, num_classes=10, in_chans=3, global_pool="avg", width=4):
        super().__init__()
        self.num_classes, self.num_features = num_classes, width
        self.stem = torch.nn.Conv2d(in_chans, width, 3, stride=2, padding=1)
        self.head = torch.nn.Linear(width, num_classes)

    def example_inputs(self, batch_size=1, generator=None):
        return {"x": self._example(batch_size, 3, 16, 16, generator=generator)}

    def forward(self, x):
        return self.head(self.stem(x).mean((2, 3)))


@pytest.fixture
def family(monkeypatch):
    """Registers image models under a module of our own making, and forgets them afterwards."""
    module = types.ModuleType("blockzoo_test_family")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    before = dict(_entries)
    timm_tables = timm.models._registry

    def register(name, tag="", **cfg):
        from blockzoo._builder import build_model

        def entrypoint(pretrained=False, **kwargs):
            return build_model(TinyImageModel, name, pretrained, **kwargs)

        entrypoint.__name__, entrypoint.__module__ = name, module.__name__
        key = f"{name}.{tag}" if tag else name
        shapes = {"input_size": (3, 16, 16), "num_classes": 10, "first_conv": "stem", "classifier": "head"}
        table = generate_default_cfgs({key: ZooCfg(**shapes, pool_size=(8, 8), **cfg)})
        module.default_cfgs = {**getattr(module, "default_cfgs", {}), **table}
        return blockzoo.register_model(entrypoint)

    yield register
    for name in set(_entries) - set(before):
        del _entries[name]
        if timm_tables._model_to_module.get(name) == "_timm_bridge":
            timm_tables._clear_model_entries(name)


def test_a_free_image_name_is_reachable_through_timm(family):
    timm_before, ours_before = timm.list_models(), timm.list_models(module="_timm_bridge")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        family("blockzoo_tiny")
    assert sorted(set(timm.list_models()) - set(timm_before)) == ["blockzoo_tiny"]
    assert set(timm.list_models(module="_timm_bridge")) == {*ours_before, "blockzoo_tiny"}
    model = timm.create_model("blockzoo_tiny", num_classes=3, in_chans=1)
    assert isinstance(model, TinyImageModel) and model(torch.zeros(1, 1, 16, 16)).shape == (1, 3)


def test_a_name_of_timms_is_ours_here_and_timms_there(family):
    entry, cfgs = timm.model_entrypoint("resnet10t"), timm.models.get_arch_pretrained_cfgs("resnet10t")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        family("resnet10t", tag="ours")
    assert isinstance(blockzoo.create_model("resnet10t"), TinyImageModel)
    assert timm.model_entrypoint("resnet10t") is entry
    assert timm.models.get_arch_pretrained_cfgs("resnet10t") == cfgs
    assert blockzoo.get_pretrained_cfg("resnet10t").tag == "ours"
    assert type(blockzoo.create_model("timm:resnet10t", device="meta")).__module__ == "timm.models.resnet"


def test_image_weights_adapt_to_classes_and_channels(family, tmp_path):
    source = TinyImageModel()
    save_file(source.state_dict(), tmp_path / "tiny.safetensors")
    family("blockzoo_adapted", tag="here", file=str(tmp_path / "tiny.safetensors"))
    model = blockzoo.create_model("blockzoo_adapted.here", pretrained=True, num_classes=4, in_chans=1)
    torch.testing.assert_close(model.stem.weight, source.stem.weight.sum(1, keepdim=True))
    assert model.head.out_features == 4
    assert blockzoo.list_models("blockzoo_adapted", pretrained=True) == ["blockzoo_adapted.here"]


def test_a_taken_name_is_refused(family):
    with pytest.raises(ValueError, match="'timesnet_forecast' is taken by blockzoo.timesnet"):
        family("timesnet_forecast")


def test_a_model_without_configuration_is_refused():
    def unconfigured(pretrained=False, **kwargs):
        return None

    with pytest.raises(ValueError, match="no entry 'unconfigured'"):
        blockzoo.register_model(unconfigured)
