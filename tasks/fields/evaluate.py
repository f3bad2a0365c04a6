"""The demo's part on maps between fields: errors on packaged test fields, panels and spectra."""

from importlib.resources import files
from typing import Any

import matplotlib.pyplot as plt
import torch

from blockzoo.tasks.core.pictures import STYLE, bitmap, coloured, panels, picture, tiles
from blockzoo.tasks.fields.darcy import read_darcy
from blockzoo.tasks.fields.files import read_fields
from blockzoo.tasks.fields.losses import LpLoss, isotropic_spectrum
from blockzoo.tasks.fields.plots import spectrum_figure

__all__ = ["evaluate_darcy", "evaluate_navier_stokes"]

Section = tuple[str, str]


def evaluate_darcy(model: Any) -> tuple[float, list[Section]]:
    """Mean relative L2 error on the 50 test fields of 16 x 16 points, and sections (heading, HTML) about it."""
    arrays = {name: value.unsqueeze(1) for name, value in read_darcy().items()}
    grids = {f"{n} x {n}": _predict(model, arrays[f"test{n}_x"], arrays[f"test{n}_y"]) for n in (16, 32)}
    (coarse, fine) = (float(part["errors"].mean()) for part in grids.values())
    samples = {f"{name}, test {i}": _one(part, i) for name, part in grids.items() for i in (0, 7)}
    text = (
        "<p>Water seeps through a square of two materials (input: 0 or 1); the model says what the pressure is. Fields "
        "that training never saw, with truth, prediction and error; each error has a colour scale of its own. Training "
        f"was on 16 x 16 points only, where the relative error is {coarse:.4f}; on the same fields at 32 x 32 points, "
        f"which the same weights take as they are, it is {fine:.4f}.</p>"
    )
    return coarse, [
        ("Pressure in a porous medium", text + _panels(samples)),
        ("By scale", _spectra({name: _mean_spectra(part) for name, part in grids.items()})),
        ("By test field", _spread(grids)),
    ]


def evaluate_navier_stokes(model: Any) -> tuple[float, list[Section]]:
    """Mean relative L2 error on the packaged test fields of 128 x 128 points, and sections about it."""
    arrays = read_fields(str(files("blockzoo.tasks.fields") / "navier_stokes_sample.safetensors"))
    part = _predict(model, arrays["x"], arrays["y"])
    error = float(part["errors"].mean())
    samples = {f"test {i}": _one(part, i) for i in (0, 1, 2)}
    text = (
        "<p>A force that does not change stirs a fluid at rest (input); after 5 units of time the model says what the "
        "vorticity is. Fields that training never saw, with truth, prediction and error; each error has a colour scale "
        f"of its own. The mean relative error of {len(arrays['x'])} such fields is {error:.4f}.</p>"
    )
    return error, [
        ("Forced turbulence", text + _panels(samples)),
        ("By scale", _spectra({"128 x 128": _mean_spectra(part)})),
        ("By test field", _spread({"128 x 128": part})),
    ]


@torch.no_grad()
def _predict(model: Any, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    prediction = torch.cat([model(part) for part in x.split(10)])
    return {"x": x, "y": y, "prediction": prediction, "errors": LpLoss(reduction="none")(prediction, y).mean(1)}


def _one(part: dict[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    return {name: part[name][index : index + 1] for name in ("x", "y", "prediction")}


def _mean_spectra(part: dict[str, torch.Tensor]) -> torch.Tensor:
    fields = (part["y"], part["prediction"], part["y"] - part["prediction"])
    return torch.stack([isotropic_spectrum(field).mean(0) for field in fields])


def _panels(samples: dict[str, dict[str, torch.Tensor]]) -> str:
    """Input, truth, prediction and error of each sample as images, with their ranges in words."""
    items = []
    for name, sample in samples.items():
        fields = {key: value[0, 0] for key, value in sample.items()}
        error = fields["prediction"] - fields["y"]
        relative = float(LpLoss()(sample["prediction"], sample["y"]))
        low, high = float(fields["y"].min()), float(fields["y"].max())
        most = float(error.abs().max())
        own = (float(fields["x"].min()), float(fields["x"].max()))
        for what, field, limits, caption in (
            ("input", fields["x"], own, name),
            ("truth", fields["y"], (low, high), f"{low:.3g} to {high:.3g}"),
            ("prediction", fields["prediction"], (low, high), "same colours"),
            ("error", error, (-most, most), f"±{most:.2g}; relative {relative:.3f}"),
        ):
            pixels = coloured(field.T.flip(0), *limits, "RdBu_r" if what == "error" else "viridis")
            shown = bitmap(pixels, f"{name}: {what}", enlarge=max(1, 160 // len(pixels)))
            items.append((shown, f"<b>{what}</b><br>{caption}"))
    return tiles(items, 4, "pixels")


def _spectra(spectra: dict[str, torch.Tensor]) -> str:
    told = []
    for name, (truth, _, error) in spectra.items():
        below = (error[0, 1:] > truth[0, 1:]).nonzero()
        until = int(below[0]) + 1 if len(below) else truth.shape[1]
        told.append(f"{name}: the error's energy stays below that of the truth up to wavenumber {until - 1}")
    text = (
        "<p>Energy by wavenumber, mean of all test fields: where the line of the error meets that of the truth, the "
        f"prediction knows nothing any more ({'; '.join(told)}).</p>"
    )
    with plt.rc_context(STYLE):
        figure = spectrum_figure(spectra)
        alts = [f"Spectra of truth, prediction and error. {one}." for one in told]
        return text + panels(figure, alts, size=(3.6, 2.7), columns=2)


def _spread(grids: dict[str, dict[str, torch.Tensor]]) -> str:
    told = []
    for name, part in grids.items():
        errors = part["errors"]
        told.append(
            f"{name}: {float(errors.min()):.3f} to {float(errors.max()):.3f}, median {float(errors.median()):.3f}"
        )

    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(4.8, 2.3))
        for (name, part), colour in zip(grids.items(), ("#3b6fb6", "#d0732b"), strict=False):
            axis.plot(part["errors"].sort().values.numpy(), "o", color=colour, markersize=4, label=name)
        axis.set(xlabel="test fields, sorted", ylabel="relative L2 error")
        axis.set_ylim(0, 1.1 * max(float(part["errors"].max()) for part in grids.values()))
        if len(grids) > 1:
            axis.legend(frameon=False)
    return picture(figure, f"Relative errors of the test fields. {'; '.join(told)}.")
