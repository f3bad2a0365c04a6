"""Learning symmetric tensors of molecules, such as polarizabilities."""

from typing import Any, Literal

import torch
from torch import nn
from torchmetrics import MeanAbsoluteError, MeanMetric

from blockzoo.layers.equivariant.cartesian_tensor import symmetric_basis, to_irreps
from blockzoo.tasks.core.task import Task
from blockzoo.tasks.molecules.potential import (
    current_outputs,
    element_references,
    fit_references,
    refit_references,
)
from blockzoo.tasks.molecules.structures import check_cutoff, count_elements

__all__ = ["TensorProperty", "axis_flips"]


def axis_flips() -> torch.Tensor:
    """What turning by 180° about no axis, x, y or z does to the irreducible parts of a tensor: signs (4, 6)."""
    turns = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    basis = symmetric_basis(torch.float32)
    return torch.einsum("aij,si,sj,aij->sa", basis, turns, turns, basis).round()


class TensorProperty(Task):
    """Task that learns a symmetric tensor of each molecule: a scalar and an l = 2 part.

    Batches hold `target` (B, 6), see `blockzoo.layers.equivariant.cartesian_tensor`. Logged in evaluation, in the
    target's unit: `scalar_mae`, the mean error of a third of the trace; `tensor_error`, the mean Frobenius norm of the
    error of the rest; and `tensor_norm`, the norm of the rest itself, which is the error of a prediction of 0.

    Args:
        free_axes: Compare with the best of the four tensors that differ by the signs of axes: for data whose frames are
            known only up to them, such as `QM9Polarizability`.
        references: "fit" fits what each element adds to the trace to the training part before training. With trained
            weights, their outputs are first multiplied by one factor, which brings the mean size of the anisotropic
            part to that of the labels (which may have another unit), and the residual is fitted; elements that the
            weights do not know are accepted. "model" does not change the model.
        **kwargs: See `Task`.
    """

    flips: torch.Tensor

    def __init__(
        self, *args: Any, free_axes: bool = True, references: Literal["fit", "model"] = "fit", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if references not in ("fit", "model"):
            raise ValueError(f"references={references!r} must be 'fit' or 'model'")
        self.references = references
        if self.model.task != "tensor":
            raise ValueError(f"model_name={self.model_name!r} is for the task {self.model.task!r}, not 'tensor'")
        flips = axis_flips()
        self.register_buffer("flips", flips if free_axes else flips[:1], persistent=False)
        self.metrics = nn.ModuleDict(
            {
                f"{stage}_metrics": nn.ModuleDict(
                    {"scalar_mae": MeanAbsoluteError(), "tensor_error": MeanMetric(), "tensor_norm": MeanMetric()}
                )
                for stage in ("val", "test")
            }
        )

    def setup(self, stage: str) -> None:
        """Fit what each element adds to the trace, when training begins; see `references`."""
        data = getattr(self.trainer, "datamodule", None)
        check_cutoff(data, self.model)
        if stage != "fit" or self.references != "fit" or data is None:
            return
        train = data.datasets["train"]
        elements, counts = count_elements([row["atomic_numbers"] for row in train.rows])
        target = torch.stack([row["target"][0] for row in train.rows]).double()
        if not (self.hparams.get("pretrained") or self.hparams.get("checkpoint_path")):
            references, _ = fit_references(counts, target)
            self.model.set_references(dict(zip(elements.tolist(), references.tolist(), strict=True)))
            return
        model: Any = self.model
        # Outputs may have the unit of other labels: the anisotropic part, which has no references, tells the factor.
        model.set_references({**dict.fromkeys(elements.tolist(), 0.0), **element_references(model)})
        found = self._parts(train)[:, 1:].norm(dim=1)
        wanted = torch.stack([row["target"][1:] for row in train.rows]).double().norm(dim=1)
        if float(found.sum()) > 0:
            model.set_references(scale=model.scales * float(wanted.sum() / found.sum()))
        refit_references(model, elements, counts, lambda: target - self._parts(train)[:, 0])

    def _parts(self, train: Any) -> torch.Tensor:
        """Irreducible parts (B, 6), float64, of what the model gives for training molecules now."""
        return to_irreps(current_outputs(self.model, train, "tensor"))

    def shared_step(self, batch: dict[str, torch.Tensor], stage: str) -> torch.Tensor:
        """See `Task.shared_step`."""
        inputs = {key: batch[key] for key in ("positions", "atomic_numbers", "batch")}
        parts = to_irreps(self.model(**inputs, num_graphs=len(batch["num_atoms"]))["tensor"])
        candidates = batch["target"].unsqueeze(1) * self.flips.to(parts.dtype)
        distance = (parts.unsqueeze(1) - candidates).norm(dim=-1)
        best = distance.detach().argmin(1)
        loss = distance.gather(1, best.unsqueeze(1)).mean()
        sizes: dict[str, Any] = {"on_epoch": True, "on_step": False, "batch_size": len(parts)}
        self.log(f"{stage}/loss", loss, prog_bar=True, sync_dist=True, **sizes)
        if stage != "train":
            target = candidates[torch.arange(len(best), device=best.device), best]
            third = 3**0.5
            metrics: Any = self.metrics[f"{stage}_metrics"]
            metrics["scalar_mae"].update(parts[:, 0] / third, target[:, 0] / third)
            metrics["tensor_error"].update((parts - target)[:, 1:].norm(dim=-1))
            metrics["tensor_norm"].update(target[:, 1:].norm(dim=-1))
            for name, metric in metrics.items():
                self.log(f"{stage}/{name}", metric, **sizes)
        return loss

    def predict_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        """Predicted tensors (B, 3, 3), and which molecules they belong to (B,)."""
        inputs = {key: batch[key] for key in ("positions", "atomic_numbers", "batch")}
        return {"index": batch["index"], "tensor": self.model(**inputs)["tensor"]}
