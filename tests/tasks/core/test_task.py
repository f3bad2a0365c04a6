"""What every task does: parameter groups, rates, frozen parameters, starting weights, and checkpoints of its own."""

import functools

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateFinder

import blockzoo
from blockzoo.checkpoints import save_state_dict
from blockzoo.tasks.core.task import Task
from blockzoo.tasks.series.classification import SeriesClassification
from blockzoo.tasks.series.uea import JapaneseVowels
from blockzoo.timesnet import TimesNetClassifier

TINY = {"d_model": 4, "d_ff": 4, "depth": 2, "num_kernels": 2, "top_k": 1}
SGD = functools.partial(torch.optim.SGD, lr=0.5)


class Rates(Callback):
    """The learning rates of each step, by group."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])


@pytest.fixture
def fit(tmp_path):
    """Trains a task for some steps; returns it, its trainer and its rates."""

    def run(task, *callbacks, **options):
        rates = Rates()
        silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
        options = {"max_epochs": 1, "limit_train_batches": 10, "limit_val_batches": 0, **silent, **options}
        root = str(tmp_path)
        trainer = Trainer(accelerator="cpu", default_root_dir=root, callbacks=[*callbacks, rates], **options)
        trainer.fit(task, datamodule=JapaneseVowels())
        return trainer, rates.seen

    return run


def task(**kwargs):
    return SeriesClassification("timesnet_classifier", TINY, **kwargs)


def test_a_task_has_to_define_its_step():
    with pytest.raises(TypeError, match="shared_step"):
        Task("timesnet_classifier")


def test_the_schedule_lasts_as_long_as_the_run(fit):
    _, rates = fit(task(optimizer=SGD, warmup_fraction=0.2, min_lr_ratio=0.1), max_epochs=2)
    rates = [row[0] for row in rates]
    assert len(rates) == 20 and rates.index(max(rates)) == 4 and rates[0] < 0.2
    assert max(rates) == pytest.approx(0.5) and 0.05 < rates[-1] < 0.06
    _, rates = fit(task(optimizer=SGD, warmup_fraction=0.5), max_steps=4, max_epochs=-1)
    assert [row[0] for row in rates] == pytest.approx([0.5 / 3, 1.0 / 3, 0.5, 0.25])


def test_lr_replaces_that_of_the_optimiser_and_weight_decay_too(fit):
    optimizer = functools.partial(torch.optim.AdamW, lr=0.5, weight_decay=0.3)
    trainer, rates = fit(task(optimizer=optimizer, lr=0.01, weight_decay=0.2, schedule="constant"))
    assert {rate for row in rates for rate in row} == {0.01}
    assert {group["weight_decay"] for group in trainer.optimizers[0].param_groups} == {0.0, 0.2}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_layer_decay_lowers_the_rate_of_early_layers_in_every_schedule(fit, schedule):
    trainer, rates = fit(task(optimizer=SGD, layer_decay=0.5, schedule=schedule))
    scales = [group["lr_scale"] for group in trainer.optimizers[0].param_groups]
    assert rates[0] == pytest.approx([0.5 * scale for scale in scales]) and min(scales) < 0.3


def test_frozen_parameters_stay_and_keep_the_scale_of_their_layer(fit):
    plain, frozen = task(layer_decay=0.5), task(layer_decay=0.5, freeze=[r"embed\.", r"blocks\.0"], lr=0.1)
    before = {name: value.clone() for name, value in frozen.model.state_dict().items()}
    trainer, _ = fit(frozen)
    moved = {name for name, value in frozen.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and not any(name.startswith(("embed.", "blocks.0")) for name in moved)

    def scale_of_head(module, optimizer):
        weight = module.model.get_classifier().weight
        return next(g["lr_scale"] for g in optimizer.param_groups if any(p is weight for p in g["params"]))

    other, _ = fit(plain)
    assert scale_of_head(frozen, trainer.optimizers[0]) == scale_of_head(plain, other.optimizers[0])


def test_freezing_trains_nothing_that_the_model_itself_holds_fixed(monkeypatch):
    def fixed(*args, **kwargs):
        model = blockzoo.create_model(*args, **kwargs)
        model.norm.weight.requires_grad_(False)
        return model

    monkeypatch.setattr("blockzoo.tasks.core.task.create_model", fixed)
    assert not task(freeze=["head"]).model.norm.weight.requires_grad
    with pytest.raises(ValueError, match="freeze='had' matches no parameter; they are embed"):
        task(freeze=["had"])


@pytest.mark.filterwarnings("ignore:.*`weights_only` was not set")
def test_a_rate_that_was_found_is_that_of_the_whole_schedule(fit):
    finder = LearningRateFinder(num_training_steps=30, early_stop_threshold=None)
    module = task(optimizer=functools.partial(torch.optim.AdamW, lr=1e-5))
    _, rates = fit(module, finder, limit_train_batches=None, enable_checkpointing=True)
    rates = [row[0] for row in rates][-16:]  # those before belong to the search
    assert module.lr != 1e-5 and rates[0] == pytest.approx(module.lr)
    assert all(0.8 < later / earlier < 1 for earlier, later in zip(rates[:8], rates[1:9], strict=True))


def test_weights_of_a_file_are_the_start_be_it_a_model_or_a_runs_checkpoint(tmp_path):
    state_dict = blockzoo.create_model("timesnet_classifier", **TINY).state_dict()
    save_state_dict(state_dict, tmp_path / "w.safetensors", {})
    torch.save({"state_dict": {f"model.{name}": value for name, value in state_dict.items()}}, tmp_path / "w.ckpt")
    for name in ("w.safetensors", "w.ckpt"):
        loaded = task(checkpoint_path=str(tmp_path / name)).model.state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in state_dict.items())


def test_a_tags_weights_are_the_start():
    module = SeriesClassification("timesnet_classifier.japanese_vowels", pretrained=True)
    expected = blockzoo.create_model("timesnet_classifier.japanese_vowels", pretrained=True).state_dict()
    assert all(torch.equal(module.model.state_dict()[name], value) for name, value in expected.items())


def test_checkpoints_of_python_code_hold_no_code(fit, tmp_path):
    trainer, _ = fit(task(optimizer=SGD, mixup=0.3), enable_checkpointing=True)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    again = SeriesClassification.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    assert again.augment.amounts["mixup"] == 0.3 and again.hparams["model_kwargs"] == TINY
    assert "optimizer" not in again.hparams


def test_checkpoints_of_the_command_line_bring_their_optimiser_back(zoo):
    checkpoint = zoo.fit("--model.optimizer=torch.optim.RAdam", "--model.optimizer.lr=0.02").trainer.checkpoint_callback
    again = SeriesClassification.load_from_checkpoint(checkpoint.last_model_path, weights_only=True)
    optimizer = again.optimizer_factory(again.parameters())
    assert isinstance(optimizer, torch.optim.RAdam) and optimizer.param_groups[0]["lr"] == 0.02


def test_a_compiled_model_trains_and_keeps_its_names(fit, monkeypatch):
    # Tracing is the model's part of it; code generation takes a minute and is tested by torch.
    compile_with = torch.nn.Module.compile
    monkeypatch.setattr(TimesNetClassifier, "compile", lambda model, **kwargs: compile_with(model, backend="eager"))
    module = task(compile=True, lr=0.01)
    fit(module, limit_train_batches=2)
    assert set(module.model.state_dict()) == set(task().model.state_dict()) and module.model._compiled_call_impl
