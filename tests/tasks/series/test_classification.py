"""Training a classifier of series on the real data: it learns, and its metrics are what they claim to be."""

import functools

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer, seed_everything

from blockzoo.tasks.series.classification import SeriesClassification
from blockzoo.tasks.series.uea import JapaneseVowels

TINY = {"d_model": 8, "d_ff": 8, "depth": 1, "num_kernels": 2, "top_k": 1, "period_scope": "sample"}
ADAM = functools.partial(torch.optim.AdamW, lr=5e-3)
AUGMENTED = {"time_warp": 0.2, "jitter": 0.1, "channel_shift": 0.1, "scale": 0.1, "mixup": 0.2, "label_smoothing": 0.1}


def trainer(**options):
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    return Trainer(accelerator="cpu", **{**silent, **options})


def trained(epochs, seed=0, batches=None, **kwargs):
    seed_everything(seed, verbose=False)
    module = SeriesClassification("timesnet_classifier", TINY, optimizer=ADAM, **kwargs)
    trainer(max_epochs=epochs, limit_train_batches=batches, limit_val_batches=0).fit(
        module, datamodule=JapaneseVowels()
    )
    return module


@pytest.fixture(scope="module")
def module():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.setenv("PL_SEED_WORKERS", "0")
        return trained(4)


@pytest.fixture(autouse=True)
def _seed_variables(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")


def test_a_few_epochs_beat_chance_by_far(module):
    result = trainer().test(module, datamodule=JapaneseVowels(), verbose=False)[0]
    assert result["test/acc"] > 0.6  # chance: 0.11, the largest class: 0.24


@pytest.mark.parametrize("batch_size", [30, 370])
def test_metrics_are_those_of_all_series_whatever_the_batches(module, batch_size):
    data = JapaneseVowels(batch_size=batch_size)
    result = trainer().test(module, datamodule=data, verbose=False)[0]
    test = data.datasets["test"]
    with torch.no_grad():
        logits = module.model.eval()(test.x, test.mask)
    predicted = logits.argmax(1)
    assert result["test/acc"] == pytest.approx(float((predicted == test.label).double().mean()), abs=1e-7)
    assert result["test/loss"] == pytest.approx(float(F.cross_entropy(logits, test.label)), rel=1e-5)
    counts = torch.zeros(9, 9, dtype=torch.long).index_put_((test.label, predicted), torch.tensor(1), accumulate=True)
    assert torch.equal(module.test_confusion, counts)
    f1 = 2 * counts.diag() / (counts.sum(0) + counts.sum(1))
    assert result["test/f1"] == pytest.approx(float(f1.mean()), abs=1e-6)


def test_the_mask_reaches_the_model(module):
    data = JapaneseVowels(batch_size=8)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    with torch.no_grad():
        masked = module.eval().predict_step(batch, 0)["probabilities"]
        expected = module.model(batch["x"], batch["mask"]).softmax(1)
        unmasked = module.predict_step({**batch, "mask": torch.ones_like(batch["mask"])}, 0)["probabilities"]
    assert torch.equal(masked, expected) and not torch.allclose(masked, unmasked, atol=1e-3)


def test_prediction_names_what_it_returns_and_agrees_with_the_test(module):
    data = JapaneseVowels(batch_size=50)
    parts = trainer().predict(module, datamodule=data)
    whole = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    assert whole["index"].tolist() == list(range(370)) and whole["probabilities"].shape == (370, 9)
    assert torch.equal(whole["label"], whole["probabilities"].argmax(1))
    right = (whole["label"] == data.datasets["test"].label).double().mean()
    result = trainer().test(module, datamodule=data, verbose=False)[0]
    assert result["test/acc"] == pytest.approx(float(right), abs=1e-7)


def test_smoothing_and_augmentation_are_for_training_only():
    plain = SeriesClassification("timesnet_classifier", TINY)
    loud = SeriesClassification("timesnet_classifier", TINY, **AUGMENTED)
    loud.model.load_state_dict(plain.model.state_dict())
    results = [trainer().test(task, datamodule=JapaneseVowels(), verbose=False)[0] for task in (plain, loud)]
    assert results[0] == results[1]


def test_the_seed_decides_the_weights_augmentation_included():
    first, again, other = (trained(1, seed, 4, **AUGMENTED).model.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
def test_training_without_a_validation_part_is_allowed():
    module = SeriesClassification("timesnet_classifier", TINY, optimizer=ADAM)
    run = trainer(max_epochs=1, limit_train_batches=2)
    run.fit(module, datamodule=JapaneseVowels(val_fraction=0.0))
    assert set(run.callback_metrics) == {"train/loss"}
