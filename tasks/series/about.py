"""The room of time series: what it offers to the commands."""

from blockzoo.tasks.core.rooms import Calibration, Command, Int8, Room

__all__ = ["room"]

HERE = "blockzoo.tasks.series"

room = Room(
    components=(
        f"{HERE}.anomaly:SeriesAnomaly",
        f"{HERE}.classification:SeriesClassification",
        f"{HERE}.forecasting:SeriesForecasting",
        f"{HERE}.imputation:SeriesImputation",
        f"{HERE}.short_term:SeriesShortTerm",
        f"{HERE}.anomaly_files:AnomalyFiles",
        f"{HERE}.anomaly_files:InternalBleeding",
        f"{HERE}.csv_files:CSVSeries",
        f"{HERE}.csv_files:Daphnet",
        f"{HERE}.competition:CSVShortSeries",
        f"{HERE}.competition:M3",
        f"{HERE}.competition:M3Monthly",
        f"{HERE}.competition:M4",
        f"{HERE}.uea:JapaneseVowels",
        f"{HERE}.uea:UEASeries",
        f"{HERE}.plots:SeriesPlots",
    ),
    evaluators={
        "Daphnet S06R02E0": f"{HERE}.evaluate:evaluate_daphnet",
        "InternalBleeding16": f"{HERE}.evaluate:evaluate_internal_bleeding",
        "JapaneseVowels": f"{HERE}.evaluate_classes:evaluate_japanese_vowels",
        "M3 monthly": f"{HERE}.evaluate:evaluate_m3",
    },
    readers={
        "series": f"{HERE}.predict:predict_table",
        "series/classification": f"{HERE}.predict:predict_classes",
    },
    reader_arguments=(f"{HERE}.predict:add_table_arguments",),
    suites={"timesnet": f"{HERE}.bench:SUITES"},
    kernels={"fold_conv": f"{HERE}.kernel_cases:CASES"},
    speed={"timesnet": f"{HERE}.speed:timesnet"},
    int8={"series": Int8(real_inputs=True)},
    calibration={
        "Daphnet S06R02E0": Calibration(f"{HERE}.csv_files:Daphnet", packaged=True),
        "InternalBleeding16": Calibration(f"{HERE}.anomaly_files:InternalBleeding", packaged=True),
        "JapaneseVowels": Calibration(f"{HERE}.uea:JapaneseVowels", packaged=True),
        "M3 monthly": Calibration(f"{HERE}.competition:M3Monthly", packaged=True),
    },
    baselines={
        task: f"{HERE}.baselines:measure"
        for task in ("SeriesAnomaly", "SeriesForecasting", "SeriesImputation", "SeriesShortTerm")
    },
    baseline_arguments=(f"{HERE}.baselines:add_arguments",),
    metrics={"auroc": "area under the ROC curve", "mse": "mean squared error", "smape": "sMAPE, %"},
    commands=(
        Command(
            "backtest",
            "evaluation",
            f"{HERE}.backtest",
            "a forecaster with a rolling origin, beside simple and statistical methods",
        ),
        Command(
            "series calibrate",
            "evaluation",
            f"{HERE}.calibrate",
            "intervals of a forecaster, or a detector's threshold, from a run's validation part",
        ),
        Command(
            "series coverage",
            "evaluation",
            f"{HERE}.coverage",
            "how many of real series' values forecast intervals hold, after a short training",
        ),
        Command("series report", "evaluation", f"{HERE}.report", "figures and tables of a finished run on series"),
        Command("package uea", "maintenance", f"{HERE}.ts_files", "turn a UEA archive's .ts files into packaged data"),
    ),
)
