"""Figure that compares a potential's predictions with the truth."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from blockzoo.tasks.core.files import write_figure
from blockzoo.tasks.molecules.potential import InteratomicPotential, force_angles

__all__ = ["ParityPlot", "draw_parity"]


def draw_parity(predictions: dict[str, torch.Tensor], figure: Any) -> None:
    """Draw energies, forces and the angles between true and predicted forces into a figure, three panels.

    Args:
        predictions: `InteratomicPotential.test_predictions`.
        figure: A matplotlib figure.
    """
    energies, forces, angles = figure.subplots(1, 3)
    usual = _means_of_formulas(predictions)
    shown = {**predictions, **{key: predictions[key] - usual for key in ("energy", "predicted_energy")}}
    pairs = (
        (energies, "energy", "energy per atom − mean of the formula (eV)", "meV/atom", 4),
        (forces, "forces", "force components (eV/Å)", "meV/Å", 2),
    )
    for axis, key, label, unit, size in pairs:
        true, predicted = shown[key].flatten(), shown[f"predicted_{key}"].flatten()
        true, predicted = true[true.isfinite()], predicted[true.isfinite()]
        if not len(true):
            continue
        low, high = float(torch.minimum(true, predicted).min()), float(torch.maximum(true, predicted).max())
        axis.plot([low, high], [low, high], color="#888888", linewidth=0.8)
        axis.plot(true, predicted, ".", color="#0072B2", markersize=size, alpha=0.4, markeredgewidth=0, rasterized=True)
        error = float((predicted - true).abs().mean()) * 1000
        axis.set(xlabel=f"true {label}", ylabel="predicted", title=f"mean absolute error {error:.3g} {unit}")
    rows = predictions["forces"].isfinite().all(1)
    true, predicted = predictions["forces"][rows], predictions["predicted_forces"][rows]
    found = force_angles(predicted, true)
    angles.plot(
        true.norm(dim=-1), found.clamp(min=1e-2), ".", color="#D55E00", markersize=2, alpha=0.4, rasterized=True
    )
    angles.set(xlabel="true force (eV/Å)", ylabel="angle (degrees)", yscale="log", title=f"mean {found.mean():.3g}°")
    for axis in (energies, forces, angles):
        axis.grid(alpha=0.3)


def _means_of_formulas(predictions: dict[str, torch.Tensor]) -> torch.Tensor:
    """For each structure the mean true energy per atom of those with its formula, (B,)."""
    parts = predictions["atomic_numbers"].split(predictions["num_atoms"].tolist())
    formulas = [tuple(sorted(part.tolist())) for part in parts]
    places = {formula: place for place, formula in enumerate(sorted(set(formulas)))}
    group = torch.tensor([places[formula] for formula in formulas])
    sums = torch.zeros(len(places), dtype=torch.double).index_add(0, group, predictions["energy"].double().nan_to_num())
    known = predictions["energy"].isfinite().long()
    counts = torch.zeros(len(places), dtype=torch.int64).index_add(0, group, known)
    return (sums / counts.clamp(min=1))[group]


class ParityPlot(Callback):
    """Draws `parity.png` into the run's folder after a test."""

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, on the main process."""
        log_dir = trainer.log_dir  # a collective call: every process must get to it
        if not isinstance(pl_module, InteratomicPotential) or not pl_module.test_predictions:
            return
        if log_dir is None or not trainer.is_global_zero:
            return
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 3.6))
        draw_parity(pl_module.test_predictions, figure)
        figure.tight_layout()
        folder = Path(log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_figure(folder / "parity.png", figure)
