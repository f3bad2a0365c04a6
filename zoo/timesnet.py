"""TimesNet: time series as images, folded by their strongest periods.

Source: "TimesNet: Temporal 2D-Variation Modeling for General Time Series Analysis" (2023), and its code in
Time-Series-Library, whose outputs these models reproduce from the same weights.

What differs from that code: each inception block is one convolution; the period search neither synchronises a device
nor breaks a graph; periods can be chosen per sample (`period_scope="sample"`); calendar features are a call argument
that is optional; statistics of a series with no observed value are finite; models that forecast and detect anomalies
take a mask of missing values too; arguments without effect are removed; series in small units are scaled before they
are standardised (`published_norm`).

Series are (B, T, C): batch, steps, channels. `seq_len` is T of the input, `pred_len` the number of steps to forecast.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models._features import feature_take_indices
from timm.models._registry import generate_default_cfgs
from torch import nn

from blockzoo._about import FamilyAbout, Small
from blockzoo._arguments import positive
from blockzoo._builder import build_model
from blockzoo._cfg import ZooCfg, from_manifest, series_cfg
from blockzoo._model import ZooModel
from blockzoo._recompute import recomputed
from blockzoo._registry import register_model
from blockzoo.kernels._dispatch import use_kernel
from blockzoo.kernels.residual_norm import residual_norm
from blockzoo.layers.series.embed import SeriesEmbedding
from blockzoo.layers.series.norm import standardize_series
from blockzoo.layers.series.period import PeriodBlock, PeriodScope
from blockzoo.layers.series.quantiles import check_levels, split_quantiles

__all__ = ["TimesNet", "TimesNetAnomaly", "TimesNetClassifier", "TimesNetForecast", "TimesNetImputation"]

about = FamilyAbout(
    title="TimesNet",
    purpose=(
        "For time series with rhythms: forecasts, filled gaps, alarms about what is not normal, and classes. It "
        "finds the strongest periods of a series, folds the series by them into images, and looks at those by "
        "convolutions."
    ),
    paper="TimesNet",
    year=2023,
    small=tuple(
        Small(name, (name,), {"d_model": 4, "d_ff": 4, "depth": 1, "num_kernels": 2})
        for name in ("timesnet_forecast", "timesnet_imputation", "timesnet_anomaly", "timesnet_classifier")
    ),
)


class TimesNet(ZooModel):
    """Base class of the models of all tasks: embedding and blocks.

    Args:
        seq_len: Steps of the input series.
        pred_len: Steps to forecast after them.
        in_chans: Channels of the series.
        d_model: Width of the embedding.
        d_ff: Channels between the two convolutions of a block.
        depth: Number of blocks.
        top_k: Periods that each block folds by, at most half the steps.
        num_kernels: Branches of the inception blocks, with kernels 1, 3, .., 2 * num_kernels - 1.
        time_freq: Sampling frequency, which sets the number of calendar features: m(onthly) 1, w 2, d 3, h 4,
            t (by the minute) 5, s 6; None for a model without them.
        drop_rate: Dropout on the embedding and before the classifier.
        drop_path_rate: Stochastic depth of the last block, growing linearly from 0.
        period_scope: "batch" chooses periods for the whole batch, as published, so that a sample's output depends on
            its batch companions; "sample" chooses them for each sample.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: A size is not positive, or `top_k` does not fit the length.
    """

    modality: ClassVar[str] = "series"
    head: nn.Module

    published_norm = False
    """Whether series are standardised exactly as in the published code, see `standardize_series`. The two agree for
    channels with a value outside of -1 and 1; the published form fails for series in small units."""

    def __init__(
        self,
        seq_len: int,
        pred_len: int,
        in_chans: int,
        d_model: int,
        d_ff: int,
        depth: int,
        top_k: int,
        num_kernels: int,
        time_freq: str | None,
        drop_rate: float,
        drop_path_rate: float,
        period_scope: PeriodScope,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        positive(seq_len=seq_len, in_chans=in_chans, d_model=d_model, d_ff=d_ff, depth=depth, num_kernels=num_kernels)
        if not 1 <= top_k <= (seq_len + pred_len) // 2:
            raise ValueError(f"top_k={top_k} must be from 1 to {(seq_len + pred_len) // 2}, half the number of steps")
        if period_scope not in ("batch", "sample"):
            raise ValueError(f"period_scope={period_scope!r} must be 'batch' or 'sample'")
        self.seq_len = seq_len
        self.pred_len = pred_len
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = d_model
        self.time_freq = time_freq
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.input_size = (seq_len, in_chans)
        self.feature_info = [{"num_chs": d_model, "reduction": 1, "module": f"blocks.{i}"} for i in range(depth)]

        self.embed = SeriesEmbedding(in_chans, d_model, seq_len, time_freq, drop_rate, **dd)
        self.extend = nn.Linear(seq_len, seq_len + pred_len, **dd) if pred_len else nn.Identity()
        self.blocks = nn.ModuleList(
            PeriodBlock(d_model, d_ff, top_k, num_kernels, period_scope, **dd) for _ in range(depth)
        )
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        self.drop_paths = nn.ModuleList(DropPath(rate) if rate else nn.Identity() for rate in rates)
        self.norm = nn.LayerNorm(d_model, **dd)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay should leave alone, beyond biases and norms: none."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layer groups for layer-wise learning rates."""
        return {"stem": r"^embed|^extend", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Save memory in training: compute each block again in the backward pass instead of storing its activations."""
        self.grad_checkpointing = enable

    def _check(self, x: torch.Tensor) -> None:
        if x.ndim != 3 or x.shape[1:] != (self.seq_len, self.in_chans):
            expected = f"(batch, seq_len={self.seq_len}, in_chans={self.in_chans})"
            raise ValueError(f"x has shape {tuple(x.shape)}, expected {expected}")
        if x.shape[0] == 0:
            raise ValueError(f"x has shape {tuple(x.shape)}: the batch is empty, give at least one series")

    def _tokens(
        self,
        x: torch.Tensor,
        time_features: torch.Tensor | None,
        depth: int | None = None,
        covariates: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """Outputs of the blocks up to `depth`, for a standardised series; `covariates` join the embedding."""
        x = self.extend(self.embed(x, time_features).transpose(1, 2)).transpose(1, 2)
        if covariates is not None:
            x = x + covariates
        outputs = []
        for block, drop_path in zip(self.blocks[:depth], self.drop_paths, strict=False):
            if self.grad_checkpointing and self.training and not torch.jit.is_scripting():
                y = recomputed(block, x)
            else:
                y = block(x)
            y = drop_path(y)
            if not torch.jit.is_scripting() and use_kernel("residual_norm", x):
                x = residual_norm(x, y.to(x.dtype), None, None, self.norm.weight, self.norm.bias, self.norm.eps)[1]
            else:
                x = self.norm(x + y)
            outputs.append(x)
        return outputs

    def _standardize(
        self, x: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self._check(x)
        if mask is not None and mask.shape != x.shape:
            raise ValueError(f"mask has shape {tuple(mask.shape)}, expected that of x, {tuple(x.shape)}")
        return standardize_series(x, mask, published=self.published_norm)

    def forward_features(
        self, x: torch.Tensor, mask: torch.Tensor | None = None, time_features: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Tokens of the last block, (B, seq_len + pred_len, d_model), from a raw series."""
        return self._tokens(self._standardize(x, mask)[0], time_features)[-1]

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Map tokens to values of the standardised series, (B, steps, in_chans); `pre_logits` returns the tokens.

        A model with quantiles gives (B, steps, quantiles * in_chans), which `forward` splits and orders.
        """
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NLC",
        intermediates_only: bool = False,
    ) -> Any:
        """Outputs of chosen blocks, as in timm.

        Args:
            x: Raw series, (B, seq_len, in_chans).
            indices: Blocks to return: all (None), the last n (int), or those listed.
            norm: No effect: every block's output is normalised already.
            stop_early: Do not run blocks after the last requested one.
            output_fmt: "NLC" for (B, steps, d_model), "NCL" for (B, d_model, steps).
            intermediates_only: Return the list alone.

        Returns:
            The list, or the output of `forward_features` and the list.
        """
        if output_fmt not in ("NLC", "NCL"):
            raise ValueError(f"output_fmt={output_fmt!r} must be 'NLC' or 'NCL'")
        take, last = feature_take_indices(len(self.blocks), indices)
        tokens = self._tokens(self._standardize(x)[0], None, last + 1 if stop_early else None)
        chosen = [tokens[i] if output_fmt == "NLC" else tokens[i].transpose(1, 2) for i in take]
        return chosen if intermediates_only else (tokens[-1], chosen)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the head and the blocks after the last one in `indices`; returns the indices counted from 0."""
        take, last = feature_take_indices(len(self.blocks), indices)
        self.blocks, self.drop_paths = self.blocks[: last + 1], self.drop_paths[: last + 1]
        if prune_head:
            self.head = nn.Identity()
        return list(take)

    def example_inputs(self, batch_size: int = 1, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """Random forward arguments; see `ZooModel.example_inputs`."""
        inputs = {"x": self._example(batch_size, self.seq_len, self.in_chans, generator=generator)}
        if self.embed.time is not None:
            count = self.embed.num_time_features
            noise = self._example(batch_size, self.seq_len, count, generator=generator)
            inputs["time_features"] = noise.sigmoid() - 0.5
        return inputs

    def size_steps(self) -> tuple[int, ...]:
        """See `ZooModel.size_steps`; the length is fixed."""
        raise ValueError(f"{type(self).__name__} has layers for one length of series; choose it when the model is made")

    @classmethod
    def convert_state_dict(cls, state_dict: dict[str, Any], model: ZooModel) -> dict[str, Any]:
        """Convert Time-Series-Library's layout to ours.

        Its position table is a constant that we compute, and its calendar embedding is left out for models that do not
        use one.
        """
        own = model.state_dict()
        converted = {}
        for name, value in state_dict.items():
            for pattern, replacement in _OFFICIAL_NAMES:
                name = re.sub(pattern, replacement, name)
            if name == "embed.positions" or (name == "embed.time.weight" and name not in own):
                continue
            converted[name] = value
        return converted


_OFFICIAL_NAMES = (
    (r"^model\.(\d+)\.conv\.0\.", r"blocks.\1.conv1."),
    (r"^model\.(\d+)\.conv\.2\.", r"blocks.\1.conv2."),
    (r"^enc_embedding\.value_embedding\.tokenConv\.", "embed.value."),
    (r"^enc_embedding\.temporal_embedding\.embed\.", "embed.time."),
    (r"^enc_embedding\.position_embedding\.pe$", "embed.positions"),
    (r"^layer_norm\.", "norm."),
    (r"^predict_linear\.", "extend."),
    (r"^projection\.", "head."),
)


class TimesNetForecast(TimesNet):
    """TimesNet that forecasts; see `TimesNet` for the other arguments.

    Covariates are an addition of ours: linear maps of them are added to the embedding, behind the step that extends it
    to the future, so that the period search and all blocks see them.

    Args:
        quantiles: Levels of quantiles to forecast, increasing between 0 and 1 and with 0.5 among them; by default one
            value, the point forecast, as published.
        num_known: Covariates that are known for past and future, such as prices, promotions or holidays.
        num_static: Covariates of the series as a whole, such as a region.
    """

    task = "forecast"

    def __init__(
        self,
        seq_len: int = 96,
        pred_len: int = 96,
        in_chans: int = 7,
        d_model: int = 16,
        d_ff: int = 32,
        depth: int = 2,
        top_k: int = 5,
        num_kernels: int = 6,
        time_freq: str | None = "h",
        drop_rate: float = 0.1,
        drop_path_rate: float = 0.0,
        period_scope: PeriodScope = "batch",
        quantiles: Sequence[float] | None = None,
        num_known: int = 0,
        num_static: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if pred_len < 1:
            raise ValueError(f"pred_len={pred_len} must be at least 1")
        if num_known < 0 or num_static < 0:
            raise ValueError(f"num_known={num_known} and num_static={num_static} must be at least 0")
        super().__init__(
            seq_len, pred_len, in_chans, d_model, d_ff, depth, top_k, num_kernels, time_freq, drop_rate,
            drop_path_rate, period_scope, device, dtype,
        )  # fmt: skip
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.quantiles = None if quantiles is None else check_levels(quantiles)
        self.num_quantiles = 0 if self.quantiles is None else len(self.quantiles)
        self.head = nn.Linear(d_model, in_chans * max(self.num_quantiles, 1), **dd)
        self.num_known, self.num_static = num_known, num_static
        self.known = nn.Linear(num_known, d_model, bias=False, **dd) if num_known else None
        self.static = nn.Linear(num_static, d_model, bias=False, **dd) if num_static else None

    def _covariates(
        self, batch: int, known: torch.Tensor | None, static: torch.Tensor | None
    ) -> torch.Tensor | None:  # fmt: skip
        """The embedding of covariates, (B, 1 or seq_len + pred_len, d_model), or None."""
        shapes = {"known": (batch, self.seq_len + self.pred_len, self.num_known), "static": (batch, self.num_static)}
        for name, given in (("known", known), ("static", static)):
            count = shapes[name][-1]
            if (given is None and count) or (given is not None and (not count or tuple(given.shape) != shapes[name])):
                found = "missing" if given is None else f"of shape {tuple(given.shape)}"
                raise ValueError(f"{name} is {found}, expected {shapes[name]} for a model with num_{name}={count}")
        total = None
        if known is not None and self.known is not None:
            total = self.known(known)
        if static is not None and self.static is not None:
            whole = self.static(static)[:, None]
            total = whole if total is None else total + whole
        return total

    def example_inputs(self, batch_size: int = 1, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """Random forward arguments; see `ZooModel.example_inputs`."""
        inputs = super().example_inputs(batch_size, generator)
        if self.num_known:
            steps = self.seq_len + self.pred_len
            inputs["known"] = self._example(batch_size, steps, self.num_known, generator=generator)
        if self.num_static:
            inputs["static"] = self._example(batch_size, self.num_static, generator=generator)
        return inputs

    def forward(
        self,
        x: torch.Tensor,
        time_features: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        known: torch.Tensor | None = None,
        static: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Forecast a series.

        Args:
            x: The past, (B, seq_len, in_chans), in any unit: each series is standardised by its own mean and deviation.
            time_features: Calendar features of the past, (B, seq_len, number set by `time_freq`), in [-0.5, 0.5].
            mask: 1 where a value is observed, 0 where it is missing and `x` is ignored, (B, seq_len, in_chans); by
                default all are observed.
            known: Covariates of past and future, (B, seq_len + pred_len, num_known), standardised.
            static: Covariates of each series, (B, num_static), standardised.

        Returns:
            The next pred_len steps, (B, pred_len, in_chans), in the unit of `x`; of a model with `quantiles` these, in
            increasing order, (B, len(quantiles), pred_len, in_chans).

        Raises:
            ValueError: A shape does not fit.
        """
        x, mean, std = self._standardize(x, mask)
        covariates = self._covariates(x.shape[0], known, static)
        y = self.forward_head(self._tokens(x, time_features, covariates=covariates)[-1])
        if self.num_quantiles:
            y = split_quantiles(y[:, -self.pred_len :], self.num_quantiles)
            return y * std.unsqueeze(1) + mean.unsqueeze(1)
        return (y * std + mean)[:, -self.pred_len :]


class TimesNetImputation(TimesNet):
    """TimesNet that fills in missing values; see `TimesNet` for the arguments."""

    task = "imputation"

    def __init__(
        self,
        seq_len: int = 96,
        in_chans: int = 7,
        d_model: int = 16,
        d_ff: int = 32,
        depth: int = 2,
        top_k: int = 3,
        num_kernels: int = 6,
        time_freq: str | None = "h",
        drop_rate: float = 0.1,
        drop_path_rate: float = 0.0,
        period_scope: PeriodScope = "batch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            seq_len, 0, in_chans, d_model, d_ff, depth, top_k, num_kernels, time_freq, drop_rate, drop_path_rate,
            period_scope, device, dtype,
        )  # fmt: skip
        self.head = nn.Linear(d_model, in_chans, device=device, dtype=dtype)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None = None, time_features: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Reconstruct a series with gaps.

        Args:
            x: Values, (B, seq_len, in_chans); those at missing places are ignored.
            mask: 1 where a value is observed, 0 where it is missing, (B, seq_len, in_chans); by default all are
                observed.
            time_features: Calendar features, (B, seq_len, number set by `time_freq`), in [-0.5, 0.5].

        Returns:
            The whole series, (B, seq_len, in_chans), in the unit of `x`; its values at the missing places fill the
            gaps.

        Raises:
            ValueError: A shape does not fit.
        """
        x, mean, std = self._standardize(x, mask)
        return self.forward_head(self._tokens(x, time_features)[-1]) * std + mean

    def example_inputs(self, batch_size: int = 1, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """Random forward arguments, a quarter of the values missing; see `ZooModel.example_inputs`."""
        inputs = super().example_inputs(batch_size, generator)
        inputs["mask"] = (torch.rand(inputs["x"].shape, generator=generator) > 0.25).to(inputs["x"])
        return inputs


class TimesNetAnomaly(TimesNet):
    """TimesNet that reconstructs series, so that anomalies show as errors; see `TimesNet` for the arguments."""

    task = "anomaly"

    def __init__(
        self,
        seq_len: int = 100,
        in_chans: int = 38,
        d_model: int = 64,
        d_ff: int = 64,
        depth: int = 2,
        top_k: int = 5,
        num_kernels: int = 6,
        drop_rate: float = 0.1,
        drop_path_rate: float = 0.0,
        period_scope: PeriodScope = "batch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            seq_len, 0, in_chans, d_model, d_ff, depth, top_k, num_kernels, None, drop_rate, drop_path_rate,
            period_scope, device, dtype,
        )  # fmt: skip
        self.head = nn.Linear(d_model, in_chans, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Reconstruct a series; the squared error at a step is its anomaly score.

        Args:
            x: Series, (B, seq_len, in_chans), in any unit.
            mask: 1 where a value is observed, 0 where it is missing, (B, seq_len, in_chans); by default all are
                observed.

        Raises:
            ValueError: A shape does not fit.
        """
        x, mean, std = self._standardize(x, mask)
        return self.forward_head(self._tokens(x, None)[-1]) * std + mean


class TimesNetClassifier(TimesNet):
    """TimesNet that classifies whole series; see `TimesNet` for the arguments.

    Args:
        num_classes: Classes; 0 for a model that returns features.
    """

    task = "classification"

    def __init__(
        self,
        seq_len: int = 29,
        in_chans: int = 12,
        num_classes: int = 9,
        d_model: int = 16,
        d_ff: int = 32,
        depth: int = 2,
        top_k: int = 3,
        num_kernels: int = 6,
        drop_rate: float = 0.1,
        drop_path_rate: float = 0.0,
        period_scope: PeriodScope = "batch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            seq_len, 0, in_chans, d_model, d_ff, depth, top_k, num_kernels, None, drop_rate, drop_path_rate,
            period_scope, device, dtype,
        )  # fmt: skip
        self.head_hidden_size = d_model * seq_len
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)
        self.head.to(device=device, dtype=dtype)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier in place, on the device and in the dtype of the model.

        Args:
            num_classes: Classes; 0 for none.
            global_pool: Must be None: the classifier reads all steps without pooling.
        """
        if global_pool:
            raise ValueError(f"global_pool={global_pool!r} must be None: the classifier reads all steps")
        self.num_classes = num_classes
        weight = self.norm.weight
        self.head = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()
        self.head.to(device=weight.device, dtype=weight.dtype)

    def _standardize(
        self, x: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the series unchanged, since the level of a channel may depend on the class."""
        self._check(x)
        return x, x.new_zeros(()), x.new_ones(())

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Classify tokens.

        Args:
            x: Tokens, (B, seq_len, d_model).
            pre_logits: Stop before the classifier.
            mask: 1 where a step is real, 0 where it is padding, (B, seq_len).

        Returns:
            Logits (B, num_classes), or features (B, seq_len * d_model).
        """
        x = self.head_drop(F.gelu(x))
        if mask is not None:
            x = x * mask.to(x.dtype).unsqueeze(-1)
        x = x.flatten(1)
        return x if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Classify series.

        Args:
            x: Series, (B, seq_len, in_chans), standardised like the training data, zero after the last real step.
            mask: 1 where a step is real, 0 where it is padding, (B, seq_len); all are real by default.

        Returns:
            Logits, (B, num_classes).

        Raises:
            ValueError: A shape does not fit.
        """
        if mask is not None and mask.shape != x.shape[:2]:
            raise ValueError(f"mask has shape {tuple(mask.shape)}, expected {tuple(x.shape[:2])}")
        return self.forward_head(self.forward_features(x), mask=mask)

    def example_inputs(self, batch_size: int = 1, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """Random series of random lengths and their masks; see `ZooModel.example_inputs`."""
        inputs = super().example_inputs(batch_size, generator)
        lengths = torch.randint(self.seq_len // 2, self.seq_len + 1, (batch_size, 1), generator=generator)
        mask = (torch.arange(self.seq_len) < lengths).to(inputs["x"])
        return {"x": inputs["x"] * mask[..., None], "mask": mask}


def _cfg(task: str, input_size: tuple[int, int], **kwargs: Any) -> ZooCfg:
    return series_cfg(
        task,
        input_size,
        paper_name="TimesNet: Temporal 2D-Variation Modeling for General Time Series Analysis",
        paper_ids="arXiv:2210.02186",
        origin_url="https://github.com/thuml/Time-Series-Library",
        none_args=("time_freq",),
        **kwargs,
    )


def _shipped(task: str, name: str) -> ZooCfg:
    entries = from_manifest(name)
    return _cfg(task, entries.pop("input_size"), **entries)


def _create(cls: type[TimesNet], variant: str, pretrained: bool, **kwargs: Any) -> Any:
    feature_cfg = {"feature_cls": "getter", "output_fmt": "NLC", "out_indices": None}
    return build_model(cls, variant, pretrained, feature_cfg=feature_cfg, **kwargs)


default_cfgs = generate_default_cfgs(
    {
        "timesnet_forecast": _cfg("forecast", (96, 7)),
        "timesnet_forecast.m3_monthly": _shipped("forecast", "timesnet_forecast.m3_monthly"),
        "timesnet_imputation": _cfg("imputation", (96, 7)),
        "timesnet_imputation.daphnet": _shipped("imputation", "timesnet_imputation.daphnet"),
        "timesnet_anomaly": _cfg("anomaly", (100, 38)),
        "timesnet_anomaly.internal_bleeding": _shipped("anomaly", "timesnet_anomaly.internal_bleeding"),
        "timesnet_classifier.japanese_vowels": _cfg(
            "classification",
            (29, 12),
            num_classes=9,
            classifier="head",
            **from_manifest("timesnet_classifier.japanese_vowels"),
        ),
    }
)


@register_model
def timesnet_forecast(pretrained: bool = False, **kwargs: Any) -> TimesNetForecast:
    """TimesNet for forecasting, by default at the sizes published for ETTh1, 96 to 96 steps: 0.61 M parameters."""
    return _create(TimesNetForecast, "timesnet_forecast", pretrained, **kwargs)


@register_model
def timesnet_imputation(pretrained: bool = False, **kwargs: Any) -> TimesNetImputation:
    """TimesNet for imputation, by default at the sizes published for ETTh1: 0.59 M parameters."""
    return _create(TimesNetImputation, "timesnet_imputation", pretrained, **kwargs)


@register_model
def timesnet_anomaly(pretrained: bool = False, **kwargs: Any) -> TimesNetAnomaly:
    """TimesNet for anomaly detection, by default at the sizes published for SMD: 4.70 M parameters."""
    return _create(TimesNetAnomaly, "timesnet_anomaly", pretrained, **kwargs)


@register_model
def timesnet_classifier(pretrained: bool = False, **kwargs: Any) -> TimesNetClassifier:
    """TimesNet for classification, by default at the sizes published for JapaneseVowels: 0.59 M parameters."""
    return _create(TimesNetClassifier, "timesnet_classifier", pretrained, **kwargs)
