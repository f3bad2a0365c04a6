"""Commands on field models: the demo's evaluation and sections, and prediction of files."""

import json
import re

import numpy as np
import pytest
import torch

import blockzoo
from blockzoo.checkpoints import load_state_dict, save_state_dict
from blockzoo.tasks.fields.darcy import read_darcy
from blockzoo.tasks.fields.evaluate import evaluate_darcy, evaluate_navier_stokes
from blockzoo.tasks.fields.losses import LpLoss
from blockzoo.tasks.fields.predict import predict_fields

SHOWN = r'<img alt="[^"]{8,}"[^>]* src="data:image/png;base64,[^"]{100,}">|<svg role="img" aria-label="[^"]{20,}"'


@pytest.fixture
def model():
    return blockzoo.create_model("fno2d", n_modes=(4, 4), hidden_channels=4, depth=1).eval()


def test_darcy_is_measured_on_both_grids(model):
    error, sections = evaluate_darcy(model)
    arrays = read_darcy()
    for size in (16, 32):
        with torch.no_grad():
            found = float(LpLoss()(model(arrays[f"test{size}_x"][:, None]), arrays[f"test{size}_y"][:, None]))
        assert f"{found:.4f}" in sections[0][1]
    assert len(sections) == 3
    for _, content in sections:
        assert re.search(SHOWN, content)


def test_navier_stokes_is_measured_on_the_packaged_fields(model):
    error, sections = evaluate_navier_stokes(model)
    assert 0.5 < error < 5
    assert "truth, prediction and error" in sections[0][1]
    for _, content in sections:
        assert re.search(SHOWN, content)


@pytest.mark.parametrize("grid", [(16, 16), (9, 14)])
def test_fields_of_a_file_are_predicted_on_their_own_grid(model, tmp_path, monkeypatch, capsys, grid):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).standard_normal((11, 1, *grid))
    np.savez("media.npz", x=x, y=2 * x)
    assert predict_fields(model, "media.npz", as_json=True) == 0
    printed = json.loads(capsys.readouterr().out)
    prediction = load_state_dict("media_predicted.safetensors")["prediction"]
    with torch.no_grad():
        expected = model(torch.from_numpy(x).float())
    assert torch.allclose(prediction, expected, atol=1e-5)
    assert printed["shape"] == [11, 1, *grid]
    error = float(LpLoss()(expected[3:4], 2 * torch.from_numpy(x[3:4]).float()))
    assert printed["fields"][3]["relative L2 error"] == pytest.approx(error, rel=1e-4)
    assert predict_fields(model, "media.npz", "other.safetensors") == 0
    assert "predictions: other.safetensors" in capsys.readouterr().out


def test_fields_that_do_not_fit_the_model_are_named(model, tmp_path):
    for shape in ((2, 3, 8, 8), (2, 1, 8)):
        path = tmp_path / "wrong.npz"
        np.savez(path, x=np.zeros(shape))
        with pytest.raises(ValueError, match=r"must be \(N, 1, \*size\) with 2 axes of space"):
            predict_fields(model, str(path))
    np.savez(path, x=np.zeros((1, 1, 8, 8)))
    with pytest.raises(ValueError, match="must end in .safetensors"):
        predict_fields(model, str(path), "out.npz")


def test_predictions_never_overwrite_their_input_and_are_checked_first(model, tmp_path, monkeypatch):
    path = tmp_path / "media.safetensors"
    save_state_dict({"x": torch.zeros(1, 1, 8, 8)}, path)
    monkeypatch.setattr(model, "forward", None)  # nothing is computed
    with pytest.raises(ValueError, match="is an input too"):
        predict_fields(model, str(path), str(path))
    with pytest.raises(ValueError, match="there is no folder"):
        predict_fields(model, str(path), str(tmp_path / "nosuch" / "y.safetensors"))


def test_fields_without_channels_and_targets_of_zeros(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).standard_normal((2, 8, 9))
    np.savez("a.npz", a=x, u=np.zeros_like(x))
    assert predict_fields(model, "a.npz", as_json=True, keys={"x": "a", "y": "u"}) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["shape"] == [2, 1, 8, 9]
    assert printed["fields"][0]["relative L2 error"] is None
    with torch.no_grad():
        assert torch.allclose(
            load_state_dict("a_predicted.safetensors")["prediction"], model(torch.from_numpy(x)[:, None]), atol=1e-6
        )
