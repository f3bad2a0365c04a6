"""The demo's part on forecasts, filled gaps and anomalies of packaged series."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from blockzoo.tasks.core.html_parts import table
from blockzoo.tasks.core.pictures import STYLE, panels
from blockzoo.tasks.series.anomaly_files import InternalBleeding
from blockzoo.tasks.series.baselines import (
    anomaly_baselines,
    imputation_baselines,
    many_series_baselines,
    strongest_period,
)
from blockzoo.tasks.series.competition import M3Monthly
from blockzoo.tasks.series.csv_files import Daphnet
from blockzoo.tasks.series.figures import draw_anomalies, draw_forecasts, draw_imputations, draw_periods, typical
from blockzoo.tasks.series.inputs import outputs_of
from blockzoo.tasks.series.metrics import (
    BASELINES,
    mase,
    mase_scale,
    owa,
    ranking_scores,
    seasonal_naive,
    smape,
    step_scores,
)
from blockzoo.tasks.series.windows import hide

__all__ = ["evaluate_daphnet", "evaluate_internal_bleeding", "evaluate_m3"]

RATES = (0.125, 0.25, 0.375, 0.5)
BATCH = 128
"""Windows at once; models that search periods over a batch give other outputs for other batches."""

FOLDED = "<p>First the input, then the mean of its embedding, folded by the periods that the first block chose.</p>"


def _against(columns: list[str], rows: list[list[str]]) -> str:
    return table(columns, rows, "This model and simple methods", ["ours", *[""] * (len(rows) - 1)])


def _folded(model: Any, x: torch.Tensor, titles: list[str]) -> str:
    """The images that the model makes of some inputs, with a text alternative for each."""
    with plt.rc_context(STYLE):
        figure = draw_periods(model, x, titles)
        columns = len(figure.axes) // len(titles)
        alts = [
            f"{titles[i // columns]}{'' if i % columns == 0 else f', folded by its {axis.get_title()}'}"
            for i, axis in enumerate(figure.axes)
        ]
        return panels(figure, alts, (2.1, 1.9), columns)


def evaluate_m3(model: Any) -> tuple[float, list[tuple[str, str]]]:
    """Mean sMAPE of forecasts of the 1428 monthly series of M3, and sections (heading, HTML) about them."""
    data = M3Monthly(seq_len=model.seq_len)
    data.setup("test")
    cuts = data.datasets["test"]
    samples = [cuts[i] for i in range(1428)]
    inputs = {key: torch.stack([sample[key] for sample in samples]) for key in ("x", "mask")}
    forecasts = outputs_of(model, inputs, BATCH)[..., 0]
    series = data.read()
    future = torch.stack([torch.from_numpy(item.future) for item in series])
    errors = smape(forecasts, future.float())
    scale = torch.stack([mase_scale(torch.from_numpy(item.history), data.period) for item in series])
    ours = [float(errors.double().mean()), float(mase(forecasts.double(), future, scale).nanmean())]
    simple = many_series_baselines(data, BASELINES)
    reference = [simple["Naive 2"][f"test/{name}"] for name in ("smape", "mase")]
    rows = [["this model", *(f"{value:.3f}" for value in (*ours, owa(*ours, *reference)))]]
    rows += [[name, *(f"{found[f'test/{k}']:.3f}" for k in ("smape", "mase", "owa"))] for name, found in simple.items()]
    chosen = typical(errors, 6)
    titles = [f"{series[i].name}, sMAPE {float(errors[i]):.1f} %" for i in chosen]
    alts = [f"A series, what came, and the forecasts of the model and the seasonal naive: {title}." for title in titles]
    past = [torch.from_numpy(series[i].history[-3 * data.pred_len :]) for i in chosen]
    naive = [torch.from_numpy(seasonal_naive(series[i].history, data.pred_len, data.period)) for i in chosen]
    ours_of, came = [forecasts[i][None] for i in chosen], [future[i] for i in chosen]
    with plt.rc_context(STYLE):
        drawn = panels(draw_forecasts(past, came, ours_of, titles, naive), alts, (3.9, 2.1), 2)
    text = (
        "<p>One model forecasts 18 months of each of 1428 monthly series of business and economics, which it had not "
        "seen. Below: the series at evenly spread quantiles of the error, from good to bad.</p>"
    )
    return ours[0], [
        ("What comes next?", text + drawn),
        ("Against simple methods", _against(["method", "sMAPE, %", "MASE", "OWA"], rows)),
        ("The periods that the model sees", FOLDED + _folded(model, inputs["x"][chosen[:3]], titles[:3])),
    ]


def evaluate_daphnet(model: Any) -> tuple[float, list[tuple[str, str]]]:
    """MSE of hidden accelerations, the mean over four rates, and sections (heading, HTML) about them."""
    data = Daphnet(seq_len=model.seq_len, eval_stride=24)
    data.setup("test")
    windows: Any = data.datasets["test"]
    x = torch.stack([windows[i]["x"] for i in range(len(windows))])
    errors, example = [], None
    for rate in RATES:
        hidden = torch.stack([hide(x.shape[1:], rate, 0, int(start)) for start in windows.starts])
        output = outputs_of(model, {"x": x, "mask": (~hidden).to(x.dtype)}, BATCH)
        errors.append((output - x)[hidden].double())
        example = (hidden[0], output[0])
    assert example is not None
    everything = torch.cat(errors)
    measured = float(everything.square().mean())
    period = strongest_period(windows.values[: data.rows["train"].stop].numpy())
    simple = imputation_baselines(windows, x.shape[2], list(RATES), 0, period)
    rows = [["this model", f"{measured:.4f}", f"{float(everything.abs().mean()):.4f}"]]
    rows[0] += [f"{float(part.square().mean()):.4f}" for part in errors]
    keys = ["test/mse", "test/mae", *(f"test/mse_{rate:g}" for rate in RATES)]
    rows += [[name, *(f"{found[key]:.4f}" for key in keys)] for name, found in simple.items()]
    names = data.table.columns[:6] if data.table else ()
    alts = [f"{name}: values that were shown, hidden and filled in." for name in names]
    with plt.rc_context(STYLE):
        drawn = panels(draw_imputations(x[0], *example, names), alts, (3.9, 1.9), 2)
    text = (
        "<p>Three sensors at ankle, thigh and trunk of a walking patient. Random values are hidden; the model sees the "
        "others, of all nine channels, and fills in what is missing. "
        "Values are standardised; half of them are hidden here.</p>"
    )
    head = ["method", "MSE", "MAE", *(f"MSE, {rate:.1%} hidden" for rate in RATES)]
    return measured, [
        ("What is missing?", text + drawn),
        ("Against simple methods", _against(head, rows)),
        ("The periods that the model sees", FOLDED + _folded(model, x[:1], ["channels 0 to 3"])),
    ]


def evaluate_internal_bleeding(model: Any) -> tuple[float, list[tuple[str, str]]]:
    """Area under the ROC curve of anomaly scores of an arterial pressure, and sections (heading, HTML) about it."""
    data = InternalBleeding(seq_len=model.seq_len, eval_stride=10)
    data.setup("test")
    found = {}
    val: Any = data.datasets["val"]
    test: Any = data.datasets["test"]
    for part, windows in (("val", val), ("test", test)):
        x = torch.stack([windows[i]["x"] for i in range(len(windows))])
        score = (outputs_of(model, {"x": x}, BATCH) - x).square().mean(-1)
        found[part] = step_scores(windows.starts, score)
    step, score = found["test"]
    ranked = ranking_scores(score, data.label)
    limit = float(np.quantile(found["val"][1].numpy(), 0.99))
    period = strongest_period(val.values[: int(val.starts[0])].numpy())
    simple = anomaly_baselines(data, 1.0, 0.99, period)
    rows = [["this model", f"{ranked['auroc']:.4f}", f"{ranked['auprc']:.4f}"]]
    rows += [[name, f"{one['test/auroc']:.4f}", f"{one['test/auprc']:.4f}"] for name, one in simple.items()]
    values = test.values
    middle = int(data.label.nonzero().double().mean())
    shown = {"over the whole test part": slice(None), "around the anomaly": slice(max(0, middle - 200), middle + 200)}
    pictures = ""
    for where, steps in shown.items():
        with plt.rc_context(STYLE):
            seen = (step[steps], score[steps], data.label[steps])
            figure = draw_anomalies(*seen, {"0.99 of validation": limit}, values[steps])
            alts = [f"The series {where}.", f"Its anomaly scores {where}."]
            pictures += panels(figure, alts, (4.8, 1.9), 2)
    text = (
        "<p>The arterial pressure of an animal. The model learned from 960 normal steps; a step's score is the squared "
        "error of its reconstruction. Above the whole test part, below its anomalous stretch.</p>"
    )
    return ranked["auroc"], [
        ("What is not normal?", text + pictures),
        ("Against simple scores", _against(["score", "AUROC", "AUPRC"], rows)),
    ]
