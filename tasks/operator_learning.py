"""Learning maps between fields."""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from blockzoo.tasks.base import Task
from blockzoo.tasks.operator_losses import H1Loss, LpLoss, SpectralH1Loss

__all__ = ["OperatorLearning", "rollout"]


@torch.no_grad()
def rollout(model: torch.nn.Module, x: torch.Tensor, steps: int, chans: int) -> torch.Tensor:
    """Apply a model of one time step to its own results.

    Args:
        model: (B, C, *size) -> (B, chans, *size).
        x: Its first input; the first `chans` channels are the state, the others stay as they are.
        steps: How often.
        chans: Channels of the state.

    Returns:
        The states (B, steps, chans, *size).
    """
    states = []
    for _ in range(steps):
        state = model(x)
        states.append(state)
        x = torch.cat([state, x[:, chans:]], 1)
    return torch.stack(states, 1)


class OperatorLearning(Task):
    """Learn a map from fields to fields by a relative norm of the error.

    Batches are those of `blockzoo.tasks.data.fields.FieldData`. Logged in evaluation are `l2` and `h1`, the relative
    errors in these norms in the fields' own units, each the mean over samples and channels; on a grid other than that
    of training as `l2_SIZE`, which is how super-resolution is measured; for several output channels also for each one;
    for samples with a trajectory `rollout_l2`, the mean over its instants, whose curve is in `test_rollout` afterwards.

    Args:
        loss: "l2"; "h1", by finite differences; or "spectral_h1", for periodic fields.
        periodic: Whether axes close, for "h1": one answer, or one for each axis.
        measure: Length of the domain along each axis, which weighs derivatives against values.
        standardize: Standardise "both" inputs and outputs, only the "output", or "none", by the training part's
            statistics, which become part of the model. The loss is that of standardised fields.
        field_names: Names of the output channels.
        random_patches: Train a multi-grid model on one patch of every sample, at a random place.
        **kwargs: See `Task`.
    """

    def __init__(
        self,
        *args: Any,
        loss: Literal["l2", "h1", "spectral_h1"] = "h1",
        periodic: bool | list[bool] = True,
        measure: float = 1.0,
        standardize: Literal["both", "output", "none"] = "both",
        field_names: list[str] | None = None,
        random_patches: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if standardize not in ("both", "output", "none"):
            raise ValueError(f"standardize={standardize!r} must be 'both', 'output' or 'none'")
        if random_patches and not hasattr(self.model, "forward_random_patch"):
            raise ValueError(f"random_patches=True needs a multi-grid model, not {self.model_name}")
        losses: dict[str, Any] = {
            "l2": lambda: LpLoss(),
            "h1": lambda: H1Loss(measure=measure, periodic=periodic),
            "spectral_h1": lambda: SpectralH1Loss(measure),
        }
        if loss not in losses:
            raise ValueError(f"loss={loss!r} must be one of {', '.join(losses)}")
        self.loss = losses[loss]()
        self.standardize = standardize
        self.random_patches = random_patches
        self.l2, self.h1 = LpLoss(reduction="none"), H1Loss(measure=measure, periodic=periodic, reduction="none")
        chans = int(self.model.out_chans)
        if field_names is not None and len(field_names) != chans:
            raise ValueError(f"field_names={field_names} must have {chans} names, one for each output channel")
        self.field_names = field_names or ([] if chans == 1 else [f"field{i}" for i in range(chans)])
        self.train_size: tuple[int, ...] | None = None
        self.test_example: dict[str, torch.Tensor] = {}
        self.test_rollout: torch.Tensor | None = None
        self._rollout_sums: list[torch.Tensor] = []

    def setup(self, stage: str) -> None:
        """Take over the statistics of the training part, when training begins."""
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            return
        self.train_size = data.size
        fresh = not (self.hparams.get("pretrained") or self.hparams.get("checkpoint_path"))
        if stage == "fit" and fresh and self.standardize != "none":
            found = data.statistics
            wanted = ("input", "output") if self.standardize == "both" else ("output",)
            self.model.set_statistics(**{key: value for key, value in found.items() if key.startswith(wanted)})

    def shared_step(self, batch: dict[str, torch.Tensor], stage: str) -> torch.Tensor:
        """See `Task.shared_step`."""
        x, y = batch["x"], batch["y"]
        if stage == "train" and self.random_patches:
            prediction, target = self.model.forward_random_patch(x, y)
        else:
            prediction, target = self.model(x), y
        if prediction.dtype != target.dtype:
            prediction = prediction.to(target.dtype)
        shape = [-1] + [1] * (y.ndim - 2)
        mean, std = self.model.output_mean.reshape(shape), self.model.output_std.reshape(shape)
        loss: torch.Tensor = self.loss((prediction - mean) / std, (target - mean) / std)
        options: dict[str, Any] = {"on_epoch": True, "on_step": False, "batch_size": len(x), "sync_dist": True}
        ending = self._ending(y.shape[2:])
        if stage != "train" or not ending:
            self.log(f"{stage}/loss{ending}", loss, prog_bar=not ending, add_dataloader_idx=False, **options)
        if stage == "train":
            return loss
        for name, measure in (("l2", self.l2), ("h1", self.h1)):
            errors = measure(prediction, y)
            self.log(
                f"{stage}/{name}{ending}", errors.mean(), add_dataloader_idx=False, prog_bar=name == "l2", **options
            )
            for field, error in zip(self.field_names, errors.unbind(1), strict=False):
                self.log(f"{stage}/{name}{ending}_{field}", error.mean(), add_dataloader_idx=False, **options)
        if stage == "test":
            self._keep(batch, prediction, ending, options)
        return loss

    def _ending(self, size: Sequence[int]) -> str:
        """What is appended to the names of metrics on another grid than that of training."""
        if self.train_size is None or tuple(size) == self.train_size:
            return ""
        return f"_{size[0]}" if len(set(size)) == 1 else f"_{'x'.join(map(str, size))}"

    def _keep(self, batch: dict[str, torch.Tensor], prediction: torch.Tensor, ending: str, options: Any) -> None:
        if not ending and not self.test_example:
            self.test_example = {
                "x": batch["x"][:1].cpu(),
                "y": batch["y"][:1].cpu(),
                "prediction": prediction[:1].cpu(),
            }
        if "trajectory" in batch:
            truth = batch["trajectory"]
            states = rollout(self.model, batch["x"], truth.shape[1], truth.shape[2])
            errors = torch.stack([self.l2(states[:, i], truth[:, i]).mean(1) for i in range(truth.shape[1])], 1)
            self.log(f"test/rollout_l2{ending}", errors.mean(), add_dataloader_idx=False, **options)
            if not ending:
                self._rollout_sums.append(errors.cpu())

    def test_step(self, batch: dict[str, torch.Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """One test batch, of any grid."""
        self.shared_step(batch, "test")

    def on_test_epoch_start(self) -> None:
        """Forget the examples of an earlier test."""
        self.test_example, self._rollout_sums = {}, []

    def on_test_epoch_end(self) -> None:
        """Average the errors over trajectories, by instant."""
        if self._rollout_sums:
            self.test_rollout = torch.cat(self._rollout_sums).mean(0)

    def predict_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        """The predicted fields (B, C', *size), and which samples they belong to (B,)."""
        return {"index": batch["index"], "prediction": self.model(batch["x"])}
