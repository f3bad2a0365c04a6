"""Training of Raptors (block by block, then jointly) and of linear probes.

Source: "Block-Recurrent Dynamics in Vision Transformers" (2025) and the trainer of the authors' code.
"""

import warnings
from typing import Any, Literal

import torch
import torchmetrics
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from blockzoo import checkpoints
from blockzoo._raptor_teacher import load_whole
from blockzoo.raptor import Raptor
from blockzoo.tasks.core.classification import Classification
from blockzoo.tasks.core.task import Task
from blockzoo.tasks.raptor.losses import (
    LossKind,
    TokenLoss,
    free_running_loss,
    joint_loss,
    published_lr,
    teacher_forced_loss,
    teacher_forcing_ratio,
)

__all__ = ["LayerR2", "LinearProbe", "RaptorDistillation"]


class LayerR2(torchmetrics.Metric):
    """Metric: R² of each layer's states over all batches: 1 - squared error / squared deviation of the target.

    It is `blockzoo.tasks.raptor.dynamics.layer_r2(weighted=True)`, over batches.

    Args:
        layers: Number of layers.
        dim: Channels of a token.
    """

    error: torch.Tensor
    total: torch.Tensor
    square: torch.Tensor
    count: torch.Tensor

    def __init__(self, layers: int, dim: int) -> None:
        super().__init__()
        zeros = torch.zeros(layers, dim, dtype=torch.double)
        for name in ("error", "total", "square"):
            self.add_state(name, default=zeros.clone(), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.double), dist_reduce_fx="sum")

    def update(self, prediction: torch.Tensor, target: torch.Tensor) -> None:
        """Add states (B, layers, tokens, dim)."""
        prediction, target = prediction.double(), target.double()
        self.error += (prediction - target).square().sum((0, 2))
        self.total += target.sum((0, 2))
        self.square += target.square().sum((0, 2))
        self.count += target.shape[0] * target.shape[2]

    def compute(self) -> torch.Tensor:
        """(layers,)."""
        deviation = (self.square - self.total.square() / self.count).sum(1)
        return 1 - self.error.sum(1) / deviation


class RaptorDistillation(Task):
    """Task that trains a Raptor to reproduce its teacher's states, layer by layer.

    Batches are those of `blockzoo.tasks.raptor.activations.TeacherActivations`, whose teacher's embedding, final norm
    and head the model takes over and keeps.

    - "blocks", the first stage: every block alone on its own phase, from the teacher's state before it, by
      r * teacher-forced + (1 - r) * free-running loss, where r falls linearly from 1 to 0. Blocks do not meet: training
      several in one run gives what training them apart does, and gradients are clipped for each block alone.
    - "joint", the second: all layers in a free run from the embedded tokens.

    Logged are `loss` (that of the stage; evaluation has r = 0), and in evaluation `r2_last` and `r2_mean`, the R² of a
    free run (`LayerR2`), and, for a model with a classifier and batches with labels, `acc` with the teacher's head as
    it is and `acc_teacher`.

    Args:
        stage: "blocks" or "joint".
        loss: See `TokenLoss`.
        token_weights: Weights of the class token, the registers and the patches, for "weighted".
        last_weighted: In the first stage, use "weighted" only for the last block and "mse" for the others, as
            published.
        anneal_fraction: Share of the run in which r falls.
        train_blocks: Indices of the blocks that the first stage trains; all by default.
        block_checkpoints: Files that the blocks start from, such as `model.safetensors` of the first stage: one for all
            blocks, or one for each.
        decay_all: Weight decay on all parameters, as published, instead of only weights.
        **kwargs: See `Task`. The schedule is the authors', with `warmup_fraction` and `min_lr_ratio`.

    Raises:
        ValueError: An argument is out of range, the model is not a Raptor, or the teacher does not fit it.
    """

    def __init__(
        self,
        *args: Any,
        stage: Literal["blocks", "joint"] = "joint",
        loss: LossKind = "weighted",
        token_weights: tuple[float, float, float] = (0.45, 0.10, 0.45),
        last_weighted: bool = False,
        anneal_fraction: float = 0.25,
        train_blocks: list[int] | None = None,
        block_checkpoints: list[str] | None = None,
        decay_all: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self.model, Raptor):
            raise ValueError(f"model_name={self.model_name!r} is a {type(self.model).__name__}, not a Raptor")
        if stage not in ("blocks", "joint"):
            raise ValueError(f"stage={stage!r} must be 'blocks' or 'joint'")
        if not 0 <= anneal_fraction <= 1:
            raise ValueError(f"anneal_fraction={anneal_fraction} must be in [0, 1]")
        model = self.model
        places = range(len(model.blocks))
        self.train_blocks = list(places) if train_blocks is None or stage == "joint" else list(train_blocks)
        if not self.train_blocks or not set(self.train_blocks) <= set(places):
            raise ValueError(f"train_blocks={train_blocks} must be some of {list(places)}")
        common: dict[str, Any] = {
            "num_prefix_tokens": model.num_prefix_tokens,
            "class_token": bool(model.vit.has_class_token),
        }
        weights = (token_weights[0], token_weights[1], token_weights[2])
        self.token_loss = TokenLoss(loss, weights, **common)
        self.first_loss = TokenLoss("mse", weights, **common) if last_weighted else self.token_loss
        self.stage_name = stage
        self.anneal_fraction = anneal_fraction
        self.decay_all = decay_all
        if block_checkpoints:
            _load_blocks(model, block_checkpoints)
        model.requires_grad_(False)
        for index in self.train_blocks:
            model.blocks[index].requires_grad_(True)
        self.r2: Any = nn.ModuleDict(
            {name: LayerR2(model.depth, model.embed_dim) for name in ("val_", "test_")}  # "val" is a method's name
        )
        self.acc: Any = nn.ModuleDict()
        if model.num_classes > 1:
            args_: dict[str, Any] = {"num_classes": model.num_classes, "average": "micro"}
            names = [f"{stage_}{who}" for stage_ in ("val_", "test_") for who in ("student", "teacher")]
            self.acc = nn.ModuleDict({name: torchmetrics.classification.MulticlassAccuracy(**args_) for name in names})

    def setup(self, stage: str) -> None:
        """Copy the teacher's embedding, norm and head."""
        teacher = getattr(getattr(self.trainer, "datamodule", None), "teacher", None)
        if teacher is None:
            return
        frame = {name: value for name, value in teacher.state_dict().items() if not name.startswith("blocks.")}
        if self.model.joint_pool:
            frame = {name: value for name, value in frame.items() if not name.startswith("head.")}
        try:
            self.model.vit.load_state_dict(frame)
        except RuntimeError as error:
            raise ValueError(f"the data's teacher does not fit the model: {error}") from error

    def configure_optimizers(self) -> Any:
        """The authors' schedule; weight decay on everything that is trained, or as in `Task`."""
        if not self.decay_all:
            optimizer = super().configure_optimizers()
            optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
        else:
            trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            optimizer = self.optimizer_factory([{"params": trained, "weight_decay": self.weight_decay}])
            for group in optimizer.param_groups if self.lr is not None else []:
                group["lr"] = self.lr
        if self.schedule == "constant":
            return optimizer
        total = int(self.trainer.estimated_stepping_batches)
        warmup = round(self.warmup_fraction * total)

        def factor(step: int) -> float:
            # the authors step the schedule before the optimiser
            return published_lr(step + 1, total, warmup, 1.0, self.min_lr_ratio)

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """In the first stage, clip the gradients of each block by their own norm."""
        if self.stage_name == "joint" or not gradient_clip_val or gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        for index in self.train_blocks:
            nn.utils.clip_grad_norm_(self.model.blocks[index].parameters(), gradient_clip_val)

    def _block_loss(self, states: torch.Tensor, ratio: float) -> torch.Tensor:
        losses = []
        for index in self.train_blocks:
            low, high = self.model.bounds[index], self.model.bounds[index + 1]
            loss = self.token_loss if index == len(self.model.blocks) - 1 else self.first_loss
            span, block = states[:, low : high + 1], self.model.blocks[index]
            total = states.new_zeros(())
            if ratio > 0:
                total = total + ratio * teacher_forced_loss(block, span, low + 1, loss)
            if ratio < 1:
                total = total + (1 - ratio) * free_running_loss(block, span, low + 1, loss)
            losses.append(total)
        return torch.stack(losses).sum()

    def shared_step(self, batch: dict[str, torch.Tensor], stage: str) -> torch.Tensor:
        """See `Task.shared_step`."""
        states = batch["states"]
        if states.shape[1] != self.model.depth + 1:
            raise ValueError(f"batch has {states.shape[1] - 1} layers, the model stands for {self.model.depth}")
        if self.stage_name == "joint":
            loss = joint_loss(self.model, states, self.token_loss)
        else:
            ratio = 0.0
            if stage == "train":
                total = int(self.trainer.estimated_stepping_batches)
                ratio = teacher_forcing_ratio(self.trainer.global_step, total, self.anneal_fraction)
                self.log("train/teacher_forcing", ratio, on_epoch=True, on_step=False)
            loss = self._block_loss(states, ratio)
        size = len(states)
        self.log(f"{stage}/loss", loss, on_epoch=True, on_step=False, prog_bar=True, batch_size=size, sync_dist=True)
        if stage != "train":
            self._measure(batch, stage)
        return loss

    def _measure(self, batch: dict[str, torch.Tensor], stage: str) -> None:
        states = batch["states"]
        run = torch.stack(self.model.forward_trajectory(states[:, 0]), 1)
        self.r2[f"{stage}_"].update(run[:, 1:], states[:, 1:])
        if not self.acc or "label" not in batch:
            return
        for who, name, last in (("student", "acc", run[:, -1]), ("teacher", "acc_teacher", states[:, -1])):
            metric = self.acc[f"{stage}_{who}"]
            metric.update(self.model.forward_head(self.model.vit.norm(last)), batch["label"])
            self.log(f"{stage}/{name}", metric, on_epoch=True, on_step=False)

    def _log_r2(self, stage: str) -> None:
        metric: Any = self.r2[f"{stage}_"]
        layers = metric.compute().reshape(-1)  # torchmetrics makes a number of one layer
        metric.reset()
        self.log_dict({f"{stage}/r2_last": layers[-1].float(), f"{stage}/r2_mean": layers.mean().float()})

    def on_validation_epoch_end(self) -> None:
        """Log R² of the epoch's free runs."""
        self._log_r2("val")

    def on_test_epoch_end(self) -> None:
        """Log R² of the epoch's free runs."""
        self._log_r2("test")

    def predict_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        """R² of each sample's last layer (B,), and the indices of the samples (B,)."""
        states = batch["states"]
        last = self.model.forward_trajectory(states[:, 0])[-1]
        target = states[:, -1]
        error = (last - target).square().sum((1, 2))
        deviation = (target - target.mean(1, keepdim=True)).square().sum((1, 2))
        return {"index": batch["index"], "r2": 1 - error / deviation}


def _load_blocks(model: Raptor, paths: list[str]) -> None:
    count = len(model.blocks)
    if len(paths) not in (1, count):
        raise ValueError(f"block_checkpoints={paths} must be one file, or one for each of {count} blocks")
    for index in range(count):
        path = paths[index if len(paths) > 1 else 0]
        content = checkpoints.load_state_dict(path)
        prefix = "" if "norm1.weight" in content else f"blocks.{index}."
        block = {name[len(prefix) :]: value for name, value in content.items() if name.startswith(prefix)}
        if not block:
            raise ValueError(f"block_checkpoints: {path} has no block {index}")
        load_whole(model.blocks[index], block, f"block_checkpoints: block {index} of {path}")


class LinearProbe(Classification):
    """Task that trains a classifier on a frozen image model, for example a Raptor or its teacher.

    Args:
        backbone_checkpoint: File of the model's weights; its classifier is left out.
        **kwargs: See `Classification`.

    Raises:
        ValueError: The file lacks weights of the model.
    """

    def __init__(self, *args: Any, backbone_checkpoint: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        heads = self.model.get_classifier()
        heads = heads if isinstance(heads, tuple) else (heads,)
        kept = {id(parameter) for head in heads for parameter in head.parameters()}
        names = [name for name, parameter in self.model.named_parameters() if id(parameter) in kept]
        if backbone_checkpoint:
            content = checkpoints.load_state_dict(backbone_checkpoint)
            wanted = [name for name in self.model.state_dict() if name not in names]
            missing = [name for name in wanted if name not in content]
            if missing:
                raise ValueError(f"backbone_checkpoint={backbone_checkpoint!r} lacks {', '.join(missing[:5])}")
            self.model.load_state_dict({name: content[name] for name in wanted}, strict=False)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in names)
        self.train()

    def setup(self, stage: str) -> None:
        """See `Classification.setup`; hides Lightning's warning about modules in eval mode, which is intended here."""
        super().setup(stage)
        warnings.filterwarnings("ignore", "Found .* in eval mode at the start of training")

    def train(self, mode: bool = True) -> "LinearProbe":
        """Train only the classifier: the backbone stays in eval mode, so that its statistics do not change."""
        super().train(mode)
        heads = self.model.get_classifier()
        self.model.eval()
        for head in heads if isinstance(heads, tuple) else (heads,):
            head.train(mode)
        return self
