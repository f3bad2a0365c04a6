"""Learning energies and forces of atomic structures."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torchmetrics import MeanAbsoluteError, MeanMetric, MeanSquaredError

from blockzoo.tasks.core.task import Task
from blockzoo.tasks.molecules.elements import SYMBOLS, atomic_number
from blockzoo.tasks.molecules.structures import StructureSet, check_cutoff, collate, composition

__all__ = [
    "InteratomicPotential",
    "current_outputs",
    "element_references",
    "fit_references",
    "force_angles",
    "linear_baseline",
    "per_structure_rmse",
    "refit_references",
]

MODEL_KEYS = ("positions", "atomic_numbers", "batch", "cell", "pbc", "edge_index", "shifts")
MEV = 1000.0


def fit_references(
    counts: torch.Tensor, energies: torch.Tensor, ridge: float = 1e-8
) -> tuple[torch.Tensor, torch.Tensor]:
    """Energy of each element by least squares: energies ≈ counts @ references.

    If the compositions do not determine the elements' energies, as when all structures have the same formula, the
    solution nearest to one common energy per atom is used (ridge), with a warning.

    Args:
        counts: Atoms of each element in each structure, (B, Z), float64.
        energies: (B,), in eV.
        ridge: Weight of the deviations, relative to the largest singular value.

    Returns:
        References (Z,), in eV, and the residuals (B,).
    """
    counts, energies = counts.double(), energies.double()
    common = energies.sum() / counts.sum()
    left = energies - common * counts.sum(1)
    singular = torch.linalg.svdvals(counts)
    rank = int((singular > 1e-9 * singular[0]).sum())
    if rank < counts.shape[1]:
        warnings.warn(
            f"the compositions of the training structures have rank {rank}, fewer than their {counts.shape[1]} "
            "elements: energies of single elements are not determined and are chosen near one common energy per atom",
            stacklevel=2,
        )
    weight = ridge * singular[0] ** 2 if rank < counts.shape[1] else torch.zeros(())
    gram = counts.T @ counts + weight * torch.eye(counts.shape[1], dtype=torch.double)
    references = common + torch.linalg.solve(gram, counts.T @ left)
    return references, energies - counts @ references


def element_references(model: Any) -> dict[int, float]:
    """A model's reference of each element that it accepts, by atomic number."""
    return {number: float(model.references[number]) for number in model.elements}


def refit_references(
    model: Any, elements: torch.Tensor, counts: torch.Tensor, missed: Callable[[], torch.Tensor]
) -> None:
    """Fit a trained model's references to new labels: add the mean residual of each element.

    The network adds its own energies, so the residuals are fitted, not the labels. Elements that
    the model has not seen are accepted from then on, with their untrained embeddings.

    Args:
        model: A model with references, see `blockzoo.tdn.TDN.set_references`.
        elements: Atomic numbers of the training part, (Z,).
        counts: Atoms of each in each structure, (B, Z), float64.
        missed: Function that returns labels minus the model's outputs, (B,); called when the model accepts all
            elements.
    """
    table = element_references(model)
    model.set_references({number: table.get(number, 0.0) for number in {*table, *elements.tolist()}})
    shift, _ = fit_references(counts, missed())
    for number, change in zip(elements.tolist(), shift.tolist(), strict=True):
        table[number] = table.get(number, 0.0) + change
    model.set_references(table)


@torch.no_grad()
def current_outputs(model: Any, samples: Any, name: str, batch_size: int = 64) -> torch.Tensor:
    """What a model in evaluation mode gives for all samples of a set, (B, ...), float64, on the CPU.

    Args:
        model: The model; its mode is restored.
        samples: As `collate` takes them.
        name: Of the output.
        batch_size: Structures at once.
    """
    training, found = model.training, []
    device = next(model.parameters()).device
    model.eval()
    for start in range(0, len(samples), batch_size):
        batch = collate([samples[i] for i in range(start, min(start + batch_size, len(samples)))])
        inputs = {key: batch[key].to(device) for key in MODEL_KEYS if key in batch}
        found.append(model.forward(**inputs, num_graphs=len(batch["num_atoms"]))[name].cpu().double())
    model.train(training)
    return torch.cat(found)


def per_structure_rmse(error: torch.Tensor, batch: torch.Tensor, num_atoms: torch.Tensor) -> torch.Tensor:
    """Root of the mean over a structure's atoms of the squared length of `error` (N, 3): (B,).

    Its gradient is finite also where all errors are 0.
    """
    squared = error.square().sum(-1)
    mean = squared.new_zeros(len(num_atoms)).index_add(0, batch, squared) / num_atoms
    return torch.where(mean > 0, mean, 1.0).sqrt() * (mean > 0)


def force_angles(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Angle between predicted and true forces (N, 3), in degrees, (N,).

    From sine and cosine, so that small angles are as exact as large ones; 0 where both vectors vanish.
    """
    prediction, target = prediction.double(), target.double()
    sine = torch.linalg.cross(prediction, target).norm(dim=-1)
    return torch.rad2deg(torch.atan2(sine, (prediction * target).sum(-1)))


class InteratomicPotential(Task):
    """Task that learns energies and forces of atomic structures.

    Batches are those of `blockzoo.tasks.molecules.structures.collate`. The loss is a weighted sum of an error of
    energies per atom, in eV, and one of forces, in eV/Å. Logged in evaluation, in meV per atom and meV/Å: `energy_mae`
    and `energy_rmse` over structures, `force_mae` over components, `force_rmse`, the mean over structures of the root
    mean square length of the errors of its atoms, `force_component_rmse`, and `force_angle`, the mean angle between the
    predicted and the true force over atoms, in degrees; and `loss`. Metrics do not depend on the batch size. After a
    test, `test_predictions` holds energies per atom and forces, true and predicted.

    When training begins, the energies of the elements are fitted to the training part by least squares and become part
    of the model (`fit_references`). With trained weights, the residual energies are fitted and added, so that labels
    may come from another method or have another zero; elements that the weights do not know are accepted, with
    untrained embeddings. Structures that the data replay from earlier training take part in the new zeros of energy.

    Labels may be missing (NaN): what is not known has no part in loss and metrics. A structure's `weight` is its weight
    in all parts of the loss.

    Args:
        energy_weight: Weight of the energies in the loss.
        force_weight: Weight of the forces.
        energy_loss: "l1" or "mse" of energies per atom.
        force_loss: "rmse", for each structure and then the mean over structures, as TDN is trained; "l1" or "mse" over
            components.
        stress_weight: Weight of the mean absolute error of the stress, in eV/Å³, of structures that have one; beside
            forces that are gradients. Where it is not 0, `stress_mae` is logged, in meV/Å³.
        references: Energies of the elements: fitted to the training part ("fit"), those of the model ("model"), those
            of the data's isolated atoms ("isolated"), or given in eV by symbol, such as `{H: -13.6, O: -2041.8}`.
        plateau_patience: Divide the learning rate by ten if the validation's `energy_mae` has not improved for this
            many epochs, instead of following `schedule`.
        **kwargs: See `Task`.

    Raises:
        ValueError: A loss or weight is unknown or out of range.
    """

    def __init__(
        self,
        *args: Any,
        energy_weight: float = 1.0,
        force_weight: float = 1.0,
        energy_loss: Literal["l1", "mse"] = "l1",
        force_loss: Literal["rmse", "l1", "mse"] = "rmse",
        stress_weight: float = 0.0,
        references: Literal["fit", "model", "isolated"] | dict[str, float] = "fit",
        plateau_patience: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        choices: dict[str, tuple[str, tuple[str, ...]]] = {
            "energy_loss": (energy_loss, ("l1", "mse")),
            "force_loss": (force_loss, ("rmse", "l1", "mse")),
        }
        if isinstance(references, str):
            choices["references"] = (references, ("fit", "model", "isolated"))
        for name, (value, known) in choices.items():
            if value not in known:
                raise ValueError(f"{name}={value!r} must be one of {', '.join(known)}")
        if min(energy_weight, force_weight) < 0 or not energy_weight + force_weight:
            raise ValueError(
                f"energy_weight={energy_weight} and force_weight={force_weight} must not be negative, nor both 0"
            )
        if stress_weight < 0 or (stress_weight and getattr(self.model, "forces", "gradient") != "gradient"):
            raise ValueError(f"stress_weight={stress_weight} must not be negative, and needs forces='gradient'")
        self.weights = (energy_weight, force_weight)
        self.stress_weight = stress_weight
        self.energy_loss, self.force_loss = energy_loss, force_loss
        self.references = references
        self.plateau_patience = plateau_patience
        self.metrics = nn.ModuleDict({f"{stage}_metrics": _metrics(stress_weight > 0) for stage in ("val", "test")})
        self.test_predictions: dict[str, torch.Tensor] = {}
        self._kept: list[dict[str, torch.Tensor]] = []

    def setup(self, stage: str) -> None:
        """Set the elements' energies, when training begins; see `references`."""
        data = getattr(self.trainer, "datamodule", None)
        check_cutoff(data, self.model)
        if stage != "fit" or self.references == "model" or data is None:
            return
        structures = [structure for structure in data.train_sample() if not structure.energy.isnan()]
        if not structures:
            raise ValueError("references: no training structure has an energy; set references: model")
        elements, counts = composition(structures)
        energies = torch.stack([structure.energy for structure in structures])
        if self.references != "fit":
            self.model.set_references(self._given_references(data, elements.tolist()))
        elif not (self.hparams.get("pretrained") or self.hparams.get("checkpoint_path")):
            references, _ = fit_references(counts, energies)
            self.model.set_references(dict(zip(elements.tolist(), references.tolist(), strict=True)))
        else:
            before = self.model.references.clone()
            known = set(self.model.elements)
            refit_references(self.model, elements, counts, lambda: energies - self._energies(structures))
            self._move_replayed(data, before, known)

    def _given_references(self, data: Any, elements: list[int]) -> dict[int, float]:
        """Energies of the elements from the config, or from the data's isolated atoms."""
        if self.references == "isolated":
            table, source = dict(data.isolated_atoms), "isolated atom of the training file"
        else:
            assert isinstance(self.references, dict)
            table, source = {atomic_number(symbol): value for symbol, value in self.references.items()}, "entry"
        missing = [SYMBOLS[number] for number in elements if number not in table]
        if missing:
            raise ValueError(f"references: no {source} for {', '.join(missing)}, which the training structures have")
        return table

    def _move_replayed(self, data: Any, before: torch.Tensor, known: set[int]) -> None:
        """Give replayed structures the zeros of energy that the model has now."""
        shift = (self.model.references - before).cpu().double()
        for structure in getattr(data, "replayed", ()):
            unknown = sorted(set(structure.atomic_numbers.tolist()) - known)
            if unknown:
                names = ", ".join(SYMBOLS[number] for number in unknown)
                raise ValueError(f"replay_path: structures have {names}, which the trained model does not know")
            structure.energy = structure.energy + shift[structure.atomic_numbers].sum()

    def _energies(self, structures: Sequence[Any]) -> torch.Tensor:
        """What the model gives for structures now, (B,), float64."""
        return current_outputs(self.model, StructureSet(structures), "energy")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the cutoff with the weights, which do not tell it."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["cutoff"] = float(self.model.cutoff)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another cutoff.

        Raises:
            ValueError: The checkpoint was trained with a cutoff other than the model's.
        """
        super().on_load_checkpoint(checkpoint)
        cutoff = checkpoint.get("cutoff", self.model.cutoff)
        if cutoff != float(self.model.cutoff):
            raise ValueError(
                f"the checkpoint was trained with cutoff={cutoff:g} Å, the model has {self.model.cutoff:g} Å; set "
                f"model_kwargs.cutoff to {cutoff:g}"
            )

    def configure_optimizers(self) -> Any:
        """See `Task.configure_optimizers`."""
        if self.plateau_patience is None:
            return super().configure_optimizers()
        if self.schedule != "constant":
            raise ValueError(f"plateau_patience={self.plateau_patience} needs schedule: constant, not {self.schedule}")
        optimizer = super().configure_optimizers()
        if isinstance(optimizer, dict):
            raise ValueError("plateau_patience goes with neither warmup_fraction nor layer_decay")
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=self.plateau_patience)
        scheduler = {"scheduler": plateau, "interval": "epoch", "monitor": "val/energy_mae"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def predict(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The model's outputs for a batch; forces as gradients also where the trainer has switched gradients off."""
        inputs = {key: batch[key] for key in MODEL_KEYS if key in batch}
        # Compiled in training only: evaluation takes gradients inside inference mode, which no compiled graph can.
        call: Any = self.model if self.training else self.model.forward
        return call(**inputs, num_graphs=len(batch["num_atoms"]))  # type: ignore[no-any-return]

    def shared_step(self, batch: dict[str, torch.Tensor], stage: str) -> torch.Tensor:
        """See `Task.shared_step`."""
        outputs = self.predict(batch)
        num_atoms, weight, dtype = batch["num_atoms"], batch["weight"], outputs["forces"].dtype
        # Labels that are not known are NaN: their errors are set to zero and not counted.
        known, known_forces = batch["energy"].isfinite(), batch["forces"].isfinite().all(-1)
        error = (outputs["energy"].double() - batch["energy"]) / num_atoms
        energy_error = torch.where(known, error, 0).to(dtype)
        force_error = torch.where(known_forces.unsqueeze(1), outputs["forces"] - batch["forces"], 0)
        counted = num_atoms.new_zeros(len(num_atoms)).index_add(0, batch["batch"], known_forces.to(num_atoms.dtype))
        rmse = per_structure_rmse(force_error, batch["batch"], counted.clamp(min=1))

        energy = energy_error.abs() if self.energy_loss == "l1" else energy_error.square()
        loss: torch.Tensor = self.weights[0] * _mean(energy, weight * known)
        if self.force_loss == "rmse":
            loss = loss + self.weights[1] * _mean(rmse, weight * (counted > 0))
        else:
            force = force_error.abs() if self.force_loss == "l1" else force_error.square()
            loss = loss + self.weights[1] * _mean(force.mean(-1), weight[batch["batch"]] * known_forces)
        stress_error = self._stress_error(batch, outputs)
        if self.stress_weight and stress_error is not None:
            loss = loss + self.stress_weight * _mean(stress_error.abs().mean((1, 2)), weight[self._with_stress(batch)])

        sizes: dict[str, Any] = {"on_epoch": True, "on_step": False, "batch_size": len(num_atoms)}
        self.log(f"{stage}/loss", loss, prog_bar=stage != "train", sync_dist=True, **sizes)
        if stage == "train":
            return loss
        metrics: Any = self.metrics[f"{stage}_metrics"]
        energy_error, force_error = energy_error[known] * MEV, force_error[known_forces].flatten() * MEV
        for name, found in (("energy", energy_error), ("force", force_error)):
            if len(found):
                metrics[f"{name}_mae"].update(found, torch.zeros_like(found))
                root = metrics["energy_rmse" if name == "energy" else "force_component_rmse"]
                root.update(found, torch.zeros_like(found))
        if bool(known_forces.any()):
            metrics["force_rmse"].update(rmse[counted > 0] * MEV)
            metrics["force_angle"].update(force_angles(outputs["forces"][known_forces], batch["forces"][known_forces]))
        if "stress_mae" in metrics and stress_error is not None and len(stress_error):
            metrics["stress_mae"].update(stress_error.flatten() * MEV, torch.zeros_like(stress_error.flatten()))
        for name, metric in metrics.items():
            if metric.update_called:
                self.log(f"{stage}/{name}", metric, prog_bar=name in ("energy_mae", "force_mae"), **sizes)
        if stage == "test":
            self._keep(batch, outputs)
        return loss

    @staticmethod
    def _with_stress(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Which structures of a batch have a known stress, (B,)."""
        return batch["stress"].isfinite().flatten(1).all(1)

    def _stress_error(self, batch: dict[str, torch.Tensor], outputs: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """Errors of the stress where it is known, (B', 3, 3), in eV/Å³; None in a batch without any."""
        if "stress" not in batch or "stress" not in outputs:
            return None
        rows = self._with_stress(batch)
        return outputs["stress"][rows] - batch["stress"][rows]

    def _keep(self, batch: dict[str, torch.Tensor], outputs: dict[str, torch.Tensor]) -> None:
        count = batch["num_atoms"]
        kept = {"energy": batch["energy"] / count, "predicted_energy": outputs["energy"].double() / count}
        kept |= {"num_atoms": count, "atomic_numbers": batch["atomic_numbers"]}
        kept |= {"forces": batch["forces"], "predicted_forces": outputs["forces"]}
        self._kept.append({key: value.detach().cpu() for key, value in kept.items()})

    def on_test_epoch_start(self) -> None:
        """Forget the predictions of an earlier test."""
        self._kept, self.test_predictions = [], {}

    def on_test_epoch_end(self) -> None:
        """Join the predictions of this process."""
        if self._kept:
            self.test_predictions = {key: torch.cat([row[key] for row in self._kept]) for key in self._kept[0]}
        self._kept = []

    def predict_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        """One row an atom: its structure (N,), element (N,), the structure's energy (N,) in eV, and forces (N, 3)."""
        outputs = self.predict(batch)
        structure = batch["batch"]
        return {
            "index": batch["index"][structure],
            "atomic_number": batch["atomic_numbers"],
            "energy": outputs["energy"][structure],
            "forces": outputs["forces"],
        }


def _mean(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted mean; zero, with a gradient of zero, where all weights are."""
    weight = weight.to(values.dtype)
    total = weight.sum()
    return (values * weight).sum() / torch.where(total > 0, total, 1)


def _metrics(stress: bool) -> nn.ModuleDict:
    root = {"squared": False}
    of_stress = {"stress_mae": MeanAbsoluteError()} if stress else {}
    return nn.ModuleDict(
        {
            **of_stress,
            "energy_mae": MeanAbsoluteError(),
            "energy_rmse": MeanSquaredError(**root),
            "force_mae": MeanAbsoluteError(),
            "force_rmse": MeanMetric(),
            "force_component_rmse": MeanSquaredError(**root),
            "force_angle": MeanMetric(),
        }
    )


def linear_baseline(train: Sequence[Any], test: Sequence[Any]) -> dict[str, float]:
    """Errors of a fit of one energy for each element, which has no forces, in the units of the task's metrics."""
    train = [structure for structure in train if structure.energy.isfinite()]
    test = [structure for structure in test if structure.energy.isfinite() and structure.forces.isfinite().all()]
    elements, counts = composition(train)
    references, _ = fit_references(counts, torch.stack([structure.energy for structure in train]))
    table = dict(zip(elements.tolist(), references.tolist(), strict=True))
    errors, sizes = [], torch.tensor([len(structure.positions) for structure in test])
    for structure in test:
        predicted = sum(table[number] for number in structure.atomic_numbers.tolist())
        errors.append((predicted - float(structure.energy)) / len(structure.positions))
    energy = torch.tensor(errors, dtype=torch.double) * MEV
    forces = torch.cat([structure.forces for structure in test]).double() * MEV
    owner = torch.repeat_interleave(torch.arange(len(test)), sizes)
    return {
        "energy_mae": float(energy.abs().mean()),
        "energy_rmse": float(energy.square().mean().sqrt()),
        "force_mae": float(forces.abs().mean()),
        "force_rmse": float(per_structure_rmse(forces, owner, sizes).mean()),
        "force_component_rmse": float(forces.square().mean().sqrt()),
    }
