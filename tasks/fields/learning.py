"""Learning maps between fields."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from blockzoo.checkpoints import save_state_dict
from blockzoo.tasks.core.files import write_csv, write_figure
from blockzoo.tasks.core.task import Task
from blockzoo.tasks.fields import metrics
from blockzoo.tasks.fields.files import FieldFiles
from blockzoo.tasks.fields.losses import H1Loss, LpLoss, SpectralH1Loss, isotropic_spectrum
from blockzoo.tasks.fields.plots import fields_figure, rollout_figure, spectrum_figure
from blockzoo.tasks.fields.trajectories import FieldTrajectories

__all__ = ["OperatorLearning", "rollout", "rollout_errors"]


@torch.no_grad()
def rollout(
    model: torch.nn.Module,
    x: torch.Tensor,
    steps: int,
    chans: int,
    history: int = 1,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Apply a model of time steps to its own results.

    Args:
        model: (B, C, *size) -> (B, m * chans, *size), the next m states, the first in front.
        x: Its first input; the first `history * chans` channels are states, the oldest in front, the others stay as
            they are.
        steps: States that are wanted.
        chans: Channels of a state.
        history: States in an input.
        mask: Points of the domain, (B, 1, *size) or (1, *size); others keep the values they have in the newest state of
            `x`.

    Returns:
        The states (B, steps, chans, *size).
    """
    states: list[torch.Tensor] = []
    known, rest = x[:, : history * chans], x[:, history * chans :]
    outside = known[:, -chans:]
    while len(states) < steps:
        for state in model(torch.cat([known, rest], 1)).split(chans, 1):
            state = state.to(x.dtype) if mask is None else torch.where(mask, state.to(x.dtype), outside)
            states.append(state)
            known = torch.cat([known[:, chans:], state], 1)
    return torch.stack(states[:steps], 1)


def rollout_errors(
    states: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Relative L2 error and VRMSE of every state of a roll-out, means over the channels that have them.

    Args:
        states: Predicted, (B, T, C, *size).
        truth: Their targets.
        mask: Points that count, (B, 1, *size) or (1, *size).

    Returns:
        Two of (B, T), one state at a time, so that no field of all instants is made.
    """
    l2 = LpLoss(reduction="none")
    errors, scaled = states.new_zeros(2, *states.shape[:2])
    for i, (state, true) in enumerate(zip(states.unbind(1), truth.unbind(1), strict=True)):
        errors[:, i] = l2(state, true, mask).nanmean(1)
        scaled[:, i] = metrics.vrmse(state, true, mask).nanmean(1)
    return errors, scaled


class OperatorLearning(Task):
    """Task that learns a map from fields to fields by a relative norm of the error.

    Batches are those of `blockzoo.tasks.fields.pairs.FieldData`. Logged in evaluation are `l2` and `h1`, the relative
    errors in these norms in the fields' own units, each the mean over samples and channels whose target is not 0
    everywhere (`h1` only where an axis that does not close has at least 4 points); on a grid other than that of
    training as `l2_SIZE`, which is how super-resolution is measured; for several output channels also for each one, and
    for a vector field the error of all its components together; and `vrmse`, see `blockzoo.tasks.fields.metrics.vrmse`.
    Tests add the further measures of PDEBench and the Well, see `blockzoo.tasks.fields.metrics`: `rmse`, `max_error`,
    `conserved_rmse`, and where there is no mask `boundary_rmse`, `nrmse_low`, `_mid`, `_high` and `fourier_rmse_low`,
    `_mid`, `_high`; for samples with a trajectory `rollout_l2` and `rollout_vrmse`, the means over its instants. After
    a test, by grid ("" for that of training): `test_examples` has the first sample, `test_spectra` the mean spectra of
    truth, prediction and error, (3, C', shells), and `test_rollouts` the error at every instant.

    Args:
        loss: "l2"; "h1", by finite differences; or "spectral_h1", for periodic fields.
        periodic: Whether axes close, for "h1": one answer, or one for each axis.
        measure: Length of the domain, one number or one for each axis, which weighs derivatives against values.
        standardize: Standardise "both" inputs and outputs, only the "output", or "none", by the training part's
            statistics, which become part of the model. The loss is that of standardised fields.
        field_names: Names of the output channels.
        random_patches: Train a multi-grid model on one patch of every sample, at a random place; the loss is that of
            the patch, whose axes do not close.
        step_epochs: Multiply the learning rate by `step_factor` after every so many epochs, as published recipes do;
            instead of the cosine and the warm-up.
        step_factor: See `step_epochs`.
        **kwargs: See `Task`.

    Raises:
        ValueError: An option is unknown or does not fit the model; at the start of a run, the data do not fit it.
    """

    def __init__(
        self,
        *args: Any,
        loss: Literal["l2", "h1", "spectral_h1"] = "h1",
        periodic: bool | list[bool] = True,
        measure: float | list[float] = 1.0,
        standardize: Literal["both", "output", "none"] = "both",
        field_names: list[str] | None = None,
        random_patches: bool = False,
        step_epochs: int | None = None,
        step_factor: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if standardize not in ("both", "output", "none"):
            raise ValueError(f"standardize={standardize!r} must be 'both', 'output' or 'none'")
        if loss not in ("l2", "h1", "spectral_h1"):
            raise ValueError(f"loss={loss!r} must be 'l2', 'h1' or 'spectral_h1'")
        if step_epochs is not None and (step_epochs < 1 or self.warmup_fraction or self.layer_decay is not None):
            raise ValueError(f"step_epochs={step_epochs} must be positive, without warmup_fraction and layer_decay")
        self.step_epochs, self.step_factor = step_epochs, step_factor
        if random_patches and not hasattr(self.model, "forward_random_patch"):
            raise ValueError(f"random_patches=True needs a multi-grid model, not {self.model_name}")
        if random_patches and loss == "spectral_h1":
            raise ValueError("loss='spectral_h1' needs periodic fields, which patches are not; use 'h1' or 'l2'")
        kinds: dict[str, Any] = {
            "l2": LpLoss,
            "h1": lambda: H1Loss(True, measure, periodic),
            "spectral_h1": lambda: SpectralH1Loss(measure),
        }
        self.loss: torch.nn.Module = kinds[loss]()
        self.patch_loss: torch.nn.Module | None = None
        if random_patches:
            parts = 2**self.model.levels
            lengths = measure / parts if isinstance(measure, int | float) else [length / parts for length in measure]
            self.patch_loss = LpLoss() if loss == "l2" else H1Loss(True, lengths, periodic=False)
        self.standardize, self.measure = standardize, measure
        self.l2, self.h1 = LpLoss(reduction="none"), H1Loss(True, measure, periodic, reduction="none")
        chans = int(self.model.out_chans)
        if field_names is not None and len(field_names) != chans:
            raise ValueError(f"field_names={field_names} must have {chans} names, one for each output channel")
        self.field_names = field_names or ([] if chans == 1 else [f"field{i}" for i in range(chans)])
        self.names_given = field_names is not None
        self.train_size: tuple[int, ...] | None = None
        self.history, self.state_chans = 1, chans
        self.vectors: dict[str, list[int]] = {}
        self._forget_tests()

    def setup(self, stage: str) -> None:
        """Check the data against the model, and take over the statistics of the training part when training begins."""
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            return
        if isinstance(data, FieldFiles):
            data.fit_axes(len(self.model.n_modes), int(self.model.in_chans))
        self.train_size = data.size
        self._check(data.channels, len(data.size))
        if isinstance(data, FieldTrajectories):
            self._take_over(data)
        fresh = not (self.hparams.get("pretrained") or self.hparams.get("checkpoint_path"))
        if stage == "fit" and fresh and self.standardize != "none":
            found = data.statistics
            wanted = ("input", "output") if self.standardize == "both" else ("output",)
            self.model.set_statistics(**{key: value for key, value in found.items() if key.startswith(wanted)})

    def _take_over(self, data: FieldTrajectories) -> None:
        """What trajectories say about states and fields."""
        masked = data.selection.mask is not None
        if masked and isinstance(self.loss, SpectralH1Loss):
            raise ValueError("loss='spectral_h1' needs fields that are known everywhere; with a mask use 'h1' or 'l2'")
        if masked and self.patch_loss is not None:
            raise ValueError("random_patches=True cannot be used with a mask")
        self.history, self.state_chans = data.steps_in, data.state_channels
        self.vectors = data.vectors
        if not self.names_given and len(data.field_names) > 1:
            self.field_names = data.field_names

    def _check(self, channels: tuple[int, int], axes: int) -> None:
        dims = len(self.model.n_modes)
        if dims != axes:
            raise ValueError(
                f"{self.model_name} maps fields (B, C, *size) with {dims} axes of space; those of the data have "
                f"{axes} (--data.channels says where the axis of channels stands)"
            )
        for key, what, given in (("in_chans", "x", channels[0]), ("out_chans", "y", channels[1])):
            own = getattr(self.model, key)
            if own != given:
                raise ValueError(f"{key}={own} of {self.model_name} does not fit the data: {what} has {given} channels")

    def configure_optimizers(self) -> Any:
        """See `Task.configure_optimizers`; or steps by epoch."""
        every, factor = self.step_epochs, self.step_factor
        if every is None:
            return super().configure_optimizers()
        self.schedule = "constant"
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: factor ** (epoch // every))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def shared_step(self, batch: dict[str, torch.Tensor], stage: str) -> torch.Tensor:
        """See `Task.shared_step`."""
        x, y = batch["x"], batch["y"]
        measure = self.loss
        if stage == "train" and self.patch_loss is not None:
            measure = self.patch_loss
            prediction, target = self.model.forward_random_patch(x, y)
        else:
            prediction, target = self.model(x), y
        if prediction.dtype != target.dtype:
            prediction = prediction.to(target.dtype)
        shape = [-1] + [1] * (y.ndim - 2)
        mean, std = self.model.output_mean.reshape(shape), self.model.output_std.reshape(shape)
        mask = batch.get("mask")
        more = () if mask is None else (mask,)  # losses of one's own need to know masks only where there are some
        loss: torch.Tensor = measure((prediction - mean) / std, (target - mean) / std, *more)
        options: dict[str, Any] = {"on_epoch": True, "on_step": False, "batch_size": len(x), "sync_dist": True}
        if stage == "train":
            self.log("train/loss", loss, prog_bar=True, **options)
            return loss
        options["add_dataloader_idx"] = False
        ending = self._ending(y.shape[2:])
        self.log(f"{stage}/loss{ending}", loss, prog_bar=not ending, **options)
        for name, norm in (("l2", self.l2), ("h1", self.h1)):
            if name == "h1" and not self._has_derivatives(y.shape[2:]):
                continue
            errors = norm(prediction, y, mask)
            self._log_mean(f"{stage}/{name}{ending}", errors, options, prog_bar=name == "l2")
            for field, error in zip(self.field_names, errors.unbind(1), strict=False):
                self._log_mean(f"{stage}/{name}{ending}_{field}", error, options)
        for field, places in self.vectors.items():
            error = metrics.vector_l2(prediction, y, places, mask)
            self._log_mean(f"{stage}/l2{ending}_{field}", error, options)
        self._log_mean(f"{stage}/vrmse{ending}", metrics.vrmse(prediction, y, mask), options)
        if stage == "test":
            self._keep(batch, prediction, ending, options)
        return loss

    def _log_mean(self, name: str, errors: torch.Tensor, options: dict[str, Any], prog_bar: bool = False) -> None:
        """Log the mean of relative errors; targets that are 0 everywhere have none, and do not count."""
        count = int((~errors.isnan()).sum())
        # Logged with weight 0 as well: all processes must log the same names.
        self.log(name, errors.nanmean().nan_to_num(), prog_bar=prog_bar, **{**options, "batch_size": count})

    def _has_derivatives(self, size: Sequence[int]) -> bool:
        """Whether a grid has enough points for the finite differences of the metric `h1`."""
        periodic: Any = self.h1.periodic
        closed = [periodic] * len(size) if isinstance(periodic, bool) else list(periodic)
        return all(closes or n >= 4 for closes, n in zip(closed, size, strict=False))

    def _ending(self, size: Sequence[int]) -> str:
        """What is appended to the names of metrics on another grid than that of training."""
        if self.train_size is None or tuple(size) == self.train_size:
            return ""
        return f"_{size[0]}" if len(set(size)) == 1 else f"_{'x'.join(map(str, size))}"

    def _keep(self, batch: dict[str, torch.Tensor], prediction: torch.Tensor, ending: str, options: Any) -> None:
        """Keep examples and spectra for figures."""
        x, y, mask = batch["x"], batch["y"], batch.get("mask")
        if mask is not None:
            prediction = torch.where(mask, prediction, y)
        if ending not in self.test_examples:
            self.test_examples[ending] = {"x": x[:1].cpu(), "y": y[:1].cpu(), "prediction": prediction[:1].cpu()}
        self._log_mean(f"test/rmse{ending}", metrics.rmse(prediction, y, mask), options)
        self._log_mean(f"test/max_error{ending}", metrics.max_error(prediction, y, mask), options)
        conserved = metrics.mean_error(prediction, y, mask).square().sum(0)
        self._add("conserved", ending, conserved, len(x))
        if mask is None:
            self._log_mean(f"test/boundary_rmse{ending}", metrics.boundary_rmse(prediction, y), options)
            for band, error in zip(metrics.BANDS, metrics.spectral_nrmse(prediction, y).unbind(-1), strict=True):
                self._log_mean(f"test/nrmse_{band}{ending}", error, options)
            self._add("shells", ending, metrics.fourier_shells(prediction, y).sum(0), len(x))
            self._grids[ending] = tuple(y.shape[2:])
        spectra = [isotropic_spectrum(field).sum(0) for field in (y, prediction, y - prediction)]
        self._add("spectra", ending, torch.stack(spectra), len(x))
        if "trajectory" in batch:
            truth = batch["trajectory"]
            history = self.history if self.state_chans == truth.shape[2] else 1
            states = rollout(self.model, x, truth.shape[1], truth.shape[2], history, mask)
            errors, scaled = rollout_errors(states, truth, mask)
            self._log_mean(f"test/rollout_l2{ending}", errors, options)
            self._log_mean(f"test/rollout_vrmse{ending}", scaled, options)
            errors = errors[~errors.isnan().any(1)]
            self._add("rollouts", ending, errors.sum(0), len(errors))

    def _add(self, kind: str, ending: str, total: torch.Tensor, count: int) -> None:
        """Add to a sum over samples, which the last entry counts."""
        flat = torch.cat([total.flatten(), total.new_full((1,), count)])
        before = self._sums[kind].get(ending)
        self._sums[kind][ending] = flat if before is None else before + flat
        self._shapes[kind, ending] = total.shape

    def _forget_tests(self) -> None:
        self.test_examples: dict[str, dict[str, torch.Tensor]] = {}
        self.test_spectra: dict[str, torch.Tensor] = {}
        self.test_rollouts: dict[str, torch.Tensor] = {}
        kinds = ("spectra", "rollouts", "conserved", "shells")
        self._sums: dict[str, dict[str, torch.Tensor]] = {kind: {} for kind in kinds}
        self._grids: dict[str, tuple[int, ...]] = {}
        self._shapes: dict[tuple[str, str], torch.Size] = {}

    def test_step(self, batch: dict[str, torch.Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """One test batch, of any grid."""
        self.shared_step(batch, "test")

    def on_test_epoch_start(self) -> None:
        """Forget an earlier test."""
        self._forget_tests()

    def on_test_epoch_end(self) -> None:
        """Average over the samples of all processes."""
        means: dict[str, dict[str, torch.Tensor]] = {"spectra": self.test_spectra, "rollouts": self.test_rollouts}
        for kind, sums in self._sums.items():
            for ending, total in sums.items():
                whole: Any = self.trainer.strategy.reduce(total, reduce_op="sum")
                mean = (whole[:-1] / whole[-1]).reshape(self._shapes[kind, ending]).cpu()
                means.setdefault(kind, {})[ending] = mean
        for ending, squares in means.get("conserved", {}).items():
            self.log(f"test/conserved_rmse{ending}", squares.sqrt().mean())
        for ending, shells in means.get("shells", {}).items():
            bands = metrics.fourier_rmse(shells, self._grids[ending], self.measure).mean(0)
            for band, error in zip(metrics.BANDS, bands, strict=True):
                if not error.isnan():  # coarse grids have no high band
                    self.log(f"test/fourier_rmse_{band}{ending}", error)

    def predict_step(
        self, batch: dict[str, torch.Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, torch.Tensor]:
        """The predicted fields (B, C', *size), NaN outside a mask, and which samples they belong to (B,)."""
        prediction = self.model(batch["x"])
        if "mask" in batch:
            prediction = torch.where(batch["mask"], prediction, torch.nan)
        return {"index": batch["index"], "prediction": prediction}

    def write_predictions(self, batches: list[dict[str, torch.Tensor]], path: Path) -> Path:
        """Write the predicted fields of all batches as arrays to a .safetensors file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_name(f"{path.name}.safetensors")
        save_state_dict({key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}, written)
        return written

    def write_report(self, folder: Path) -> None:
        """Write figures and tables of the last test into a finished run's folder.

        These are `fields.png`, `spectrum.png`, `spectrum.csv`, and `rollout.png` and `rollout.csv` where the test had
        trajectories.
        """
        grid = "x".join(map(str, self.train_size or ()))
        titles = {ending: f"grid {ending.removeprefix('_') or grid}" for ending in self.test_examples}
        names = self.field_names or None
        samples = {titles[key]: value for key, value in self.test_examples.items()}
        spectra = {titles[key]: value for key, value in self.test_spectra.items()}
        figures = {"fields.png": fields_figure(samples, names), "spectrum.png": spectrum_figure(spectra, names)}
        rows = [
            (title, chan, k, *values.tolist())
            for title, part in spectra.items()
            for chan in range(part.shape[1])
            for k, values in enumerate(part[:, chan].T)
        ]
        tables: dict[str, list[tuple[Any, ...]]]
        tables = {"spectrum.csv": [("grid", "channel", "wavenumber", "truth", "prediction", "error"), *rows]}
        if self.test_rollouts:
            curves = {titles[key]: value for key, value in self.test_rollouts.items()}
            figures["rollout.png"] = rollout_figure(curves)
            steps = [
                (title, step, float(e)) for title, curve in curves.items() for step, e in enumerate(curve, start=1)
            ]
            tables["rollout.csv"] = [("grid", "step", "l2"), *steps]
        for name, figure in figures.items():
            write_figure(folder / name, figure)
        for name, table in tables.items():
            write_csv(folder / name, table)
