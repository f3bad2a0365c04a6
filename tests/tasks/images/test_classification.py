"""The image classification task: losses, teachers, modes, and real steps."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from blockzoo.layers.conv.scheduled_drop_path import ScheduledDropPath
from blockzoo.tasks.core.classification import _Mix, check_classes
from blockzoo.tasks.core.classification_metrics import ClassificationMetrics, MultiLabelMetrics
from blockzoo.tasks.core.drop_path import ScheduledDropPathProgress
from blockzoo.tasks.images.classification import ImageClassification

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*no `val_dataloader`.*"),
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training.*"),
]

TINY = {"stem_chans": (32,), "stem_strides": (4,), "depths": (1, 1), "conv_chans": (32, 32), "strides": (1, 2)}
TINY |= {"attn_chans": (None, None), "sr_ratios": (1, 1)}


def batch(size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 3, 32, 32, generator=generator)
    return {"x": x, "label": torch.arange(size) % 10, "index": torch.arange(size)}


def task(**kwargs):
    return ImageClassification("nextvit_cifar", model_kwargs=TINY, **kwargs)


def train(module, steps=4, callbacks=(), path=None, **kwargs):
    """Fit on one batch that comes again and again."""
    data = batch()
    samples = [{key: value[i] for key, value in data.items()} for i in range(8)] * steps
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=list(callbacks),
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=path, limit_val_batches=0, **kwargs,
    )  # fmt: skip
    trainer.fit(module, DataLoader(samples, batch_size=8))
    return trainer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mixup": 0.4, "cutmix": 1.0, "label_smoothing": 0.1},
        {"conv_norm_mode": "tune", "channels_last": True},
        {"conv_norm_mode": "eval"},
    ],
)
def test_training_learns_the_batch(options, tmp_path):
    module = task(optimizer=lambda p: torch.optim.AdamW(p, lr=3e-3), **options)
    data = batch()
    before = F.cross_entropy(module.model(data["x"]), data["label"])
    train(module, steps=25, path=tmp_path)
    after = F.cross_entropy(module.model.train()(data["x"]), data["label"])
    assert after < before - 0.15


def test_modes_reach_the_model():
    norm = task(conv_norm_mode="tune").model.stem[0]
    assert norm.mode == "tune" and not norm.train().norm.training


def test_loss_is_float32_under_autocast_and_smoothing_is_for_training_only():
    module = task(label_smoothing=0.2)
    module.log = lambda *args, **kwargs: None
    data = batch()
    with torch.autocast("cpu", torch.bfloat16):
        assert module.shared_step(data, "train").dtype == torch.float32
    module.eval()
    logits = module.model(data["x"])
    torch.testing.assert_close(module.shared_step(data, "val"), F.cross_entropy(logits, data["label"]))
    expected = F.cross_entropy(logits, data["label"], label_smoothing=0.2)
    torch.testing.assert_close(module.shared_step(data, "train"), expected)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_a_teacher_is_followed_and_stays_outside(kind, tmp_path):
    torch.manual_seed(5)
    teacher = task().model.eval()
    with torch.no_grad():
        teacher.head.fc.weight.mul_(200)
    path = tmp_path / "teacher.pt"
    torch.save(teacher.state_dict(), path)
    module = task(
        teacher="nextvit_cifar", teacher_kwargs=TINY, teacher_checkpoint=str(path), distill_kind=kind,
        distill_weight=1.0, distill_temperature=2.0, optimizer=lambda p: torch.optim.AdamW(p, lr=3e-3),
    )  # fmt: skip
    data = batch()

    def distance():
        student, wanted = module.model.train()(data["x"]), teacher(data["x"])
        if kind == "hard":
            return F.cross_entropy(student, wanted.argmax(-1))
        return F.kl_div(
            F.log_softmax(student / 2, -1), F.log_softmax(wanted / 2, -1), log_target=True, reduction="batchmean"
        )

    before = distance()
    train(module, steps=25, path=tmp_path)
    assert distance() < before - 0.1 * before.clamp(max=1.0)
    assert not any("teacher" in name for name in module.state_dict())
    assert len(list(module.parameters())) == len(list(module.model.parameters()))
    for name, value in module._teacher[0].state_dict().items():
        assert torch.equal(value, teacher.state_dict()[name])


def test_distilled_loss_is_the_stated_formula(tmp_path):
    path = tmp_path / "teacher.pt"
    torch.save(task().model.state_dict(), path)
    args = {"teacher": "nextvit_cifar", "teacher_kwargs": TINY, "teacher_checkpoint": str(path)}
    module = task(**args, distill_weight=0.3, distill_temperature=3.0)
    data, logits = batch(), torch.randn(8, 10)
    wanted = module._teacher[0](data["x"])
    p = (wanted / 3).softmax(-1)
    divergence = (p * (p.log() - (logits / 3).log_softmax(-1))).sum(-1).mean()
    expected = 0.7 * F.cross_entropy(logits, data["label"]) + 0.3 * 9 * divergence
    torch.testing.assert_close(module._loss(logits, data["label"], data["x"]), expected)
    with pytest.raises(ValueError, match="teacher='nextvit_cifar' has 7 classes, the student has 10"):
        torch.save({k: v[:7] if k.startswith("head") else v for k, v in task().model.state_dict().items()}, path)
        task(**{**args, "teacher_kwargs": {**TINY, "num_classes": 7}})
    with pytest.raises(ValueError, match=r"distill_weight=1.5 must be in \[0, 1\]"):
        task(distill_weight=1.5)


def test_metrics_agree_with_counting_by_hand():
    metrics = ClassificationMetrics(6, ("acc5", "ece"))
    logits = torch.zeros(4, 6)
    logits[0, 2] = logits[1, 1] = logits[2, 0] = 10.0
    logits[3] = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    label = torch.tensor([2, 0, 0, 5])
    found = {name: float(metric.compute()) for name, metric in metrics.update("test", logits, label).items()}
    confidence, right = logits.softmax(-1).max(-1).values, torch.tensor([1.0, 0, 1, 0])
    sure = (confidence[:3].mean() - right[:3].mean()).abs() * 0.75 + (confidence[3] - right[3]).abs() * 0.25
    assert found["test/acc"] == 0.5 and found["test/acc5"] == 0.75
    assert abs(found["test/ece"] - float(sure)) < 1e-6
    assert metrics.confusion.compute()[0].tolist() == [1, 1, 0, 0, 0, 0]
    assert ClassificationMetrics(5, ("acc5",)).names == ["acc"]


def test_drop_path_follows_the_steps_of_the_run(tmp_path):
    seen = []

    class Watch(ScheduledDropPathProgress):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            seen.extend({float(m.progress) for m in pl_module.modules() if isinstance(m, ScheduledDropPath)})

    module = ImageClassification("nasnet_cifar", model_kwargs={"width": 8, "drop_path_rate": 0.3})
    train(module, steps=4, callbacks=[Watch()], path=tmp_path)
    assert seen == [0.0, 0.25, 0.5, 0.75]
    with pytest.raises(ValueError, match="steps=0 must be at least 1"):
        ScheduledDropPathProgress(0)


@pytest.mark.parametrize("options", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_an_odd_batch_is_mixed_and_its_labels_are_smooth(options, monkeypatch):
    module, seen = task(label_smoothing=0.1, **options), []
    module.log = lambda *args, **kwargs: None
    monkeypatch.setattr(module, "_loss", lambda logits, target, x: seen.append((target, x)) or logits.sum())
    data = batch(5)
    np.random.seed(0)  # noqa: NPY002  (timm draws from it)
    module.shared_step(data, "train")
    target, x = seen[0]
    assert not torch.allclose(x[0], data["x"][0]) and torch.allclose(x[2], data["x"][2], atol=1e-6)
    torch.testing.assert_close(target.sum(1), torch.ones(5))
    assert float(target[2].max()) == pytest.approx(0.91) and float(target.min()) == pytest.approx(0.01)


def test_classes_of_data_and_model_are_compared():
    data = type("Data", (), {"preprocessing": {"label_names": ["cat", "dog"], "input_size": [3, 32, 32]}})()
    with pytest.raises(ValueError, match=r"the data have 2 classes \(cat, dog\), the model has num_classes=10"):
        check_classes(task().model, data, training=True)
    module = ImageClassification("nextvit_cifar", model_kwargs={**TINY, "num_classes": 2, "in_chans": 1})
    with pytest.raises(ValueError, match="the data have 3 channels, the model takes in_chans=1"):
        check_classes(module.model, data, training=True)
    with pytest.raises(ValueError, match="labels from 0 to 9, the model has num_classes=2"):
        module.shared_step({**batch(10), "x": torch.randn(10, 1, 32, 32)}, "train")


# Several labels an image, and classes of unequal size.


def test_several_labels_are_learnt_by_binary_cross_entropy():
    module = task(multi_label=True, class_weights=[1.0] * 9 + [5.0])
    module.log = lambda *args, **kwargs: None
    data = batch()
    data["label"] = (torch.rand(8, 10, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    module._weights = torch.tensor(module.class_weights)
    logits = module.eval().model(data["x"])
    weight = torch.where(data["label"] == 1, module._weights, 1.0)
    by_hand = -weight * torch.where(data["label"] == 1, logits.sigmoid().log(), (-logits).sigmoid().log())
    torch.testing.assert_close(module.shared_step(data, "train"), by_hand.mean())
    plain = module.shared_step(data, "val")
    torch.testing.assert_close(plain, F.binary_cross_entropy_with_logits(logits, data["label"]))
    found = module.predict_step(data, 0)["probabilities"]
    torch.testing.assert_close(found, logits.sigmoid())
    with pytest.raises(ValueError, match=r"have the shape \(8,\), expected \(8, 10\)"):
        module.shared_step(batch(), "train")


def test_class_weights_weigh_the_training_loss_alone():
    weights = [0.5 + 0.1 * i for i in range(10)]
    module = task(class_weights=weights)
    module.log = lambda *args, **kwargs: None
    module._weights = torch.tensor(weights)
    data = batch()
    logits = module.eval().model(data["x"])
    own = torch.tensor(weights)[data["label"]]
    losses = -logits.log_softmax(-1)[torch.arange(8), data["label"]]
    torch.testing.assert_close(module.shared_step(data, "train"), (own * losses).sum() / own.sum())
    torch.testing.assert_close(module.shared_step(data, "val"), losses.mean())


def test_average_precision_is_that_of_the_ranking():
    metrics = MultiLabelMetrics(2)
    logits = torch.tensor([[3.0, 1.0], [2.0, -2.0], [1.0, 3.0], [-1.0, 2.0]])
    labels = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = metrics.update("val", logits, labels)
    first = (1 / 1 + 2 / 3) / 2  # right ones at places 1 and 3
    second = (1 / 2 + 2 / 3) / 2  # at places 2 and 3
    assert float(found["val/map"].compute()) == pytest.approx((first + second) / 2)
    f1 = (2 * 2 / (2 * 2 + 1) + 2 * 2 / (2 * 2 + 1)) / 2  # two right and one wrong above 0.5, in both
    assert float(found["val/f1"].compute()) == pytest.approx(f1)


def test_mixed_images_have_mixed_labels():
    mix = _Mix(mixup_alpha=1.0, cutmix_alpha=0.0, num_classes=2)
    np.random.seed(0)  # noqa: NPY002 - timm draws from it
    x = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    labels = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    mixed, target = mix(x, labels)
    share = float(mixed[1].mean())  # of the image that was one
    torch.testing.assert_close(target[1], share * labels[1] + (1 - share) * labels[0])
    assert 0 < share < 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"multi_label": True, "label_smoothing": 0.1}, "label_smoothing=0.1 is for one label a sample"),
        ({"class_weights": [1.0, 2.0]}, r"class_weights=\[1.0, 2.0\] must be 10 numbers"),
        ({"class_weights": [-1.0] + [1.0] * 9}, "must be 10 numbers of 0 or more"),
        ({"class_weights": (1.0, 2.0)}, r"class_weights=\(1.0, 2.0\) must be 10 numbers"),
        ({"class_weights": [float("nan")] * 10}, "must be 10 numbers of 0 or more"),
        ({"class_weights": [0.0] * 10}, "not all 0"),
        ({"class_weights": "balance"}, "class_weights=balance must be 10 numbers .*; or balanced"),
        ({"mixup": -1.0}, "mixup=-1.0 must be 0 or more"),
        ({"cutmix": float("inf")}, "cutmix=inf must be 0 or more"),
        ({"mixup": 0.2, "mix_prob": 5.0}, r"mix_prob=5.0 must be in \[0, 1\]"),
        ({"label_smoothing": 2.0}, r"label_smoothing=2.0 must be in \[0, 1\]"),
    ],
)
def test_wrong_options_and_those_that_exclude_each_other_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        task(**options)


def test_balanced_weights_need_data_that_tell_their_labels(tmp_path):
    with pytest.raises(ValueError, match="class_weights='balanced' needs a data module that tells its labels"):
        train(task(class_weights="balanced"), steps=1, path=tmp_path)
