"""Raptor's losses, schedules, activation cache and stages, and the packaged configs from teacher to probe."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file, save_file

import blockzoo
from blockzoo.__main__ import main
from blockzoo.layers.attention.recurrent_block import RecurrentBlock
from blockzoo.tasks.app.training import run
from blockzoo.tasks.images.small_sets import CIFAR10
from blockzoo.tasks.raptor.activations import ActivationCache, TeacherActivations, load_vit
from blockzoo.tasks.raptor.dynamics import layer_r2
from blockzoo.tasks.raptor.losses import (
    TokenLoss,
    free_running_loss,
    joint_loss,
    published_lr,
    teacher_forced_loss,
    teacher_forcing_ratio,
)
from blockzoo.tasks.raptor.study import fit_probe
from blockzoo.tasks.raptor.training import LayerR2, LinearProbe, RaptorDistillation

ROOT = Path(__file__).parents[3]
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3, "num_classes": 10}
STUDENT = {"teacher": "vit_tiny_patch16_224", "teacher_kwargs": TINY, "blocks": 2, "init_values": 0.1}


@pytest.fixture
def case(golden, noise):
    """The stored case, its named state dicts and its states."""
    stored = golden("raptor_training")

    def weights(which):
        values = {}
        full = type(stored)(stored.arrays, {**stored.meta, "table": stored.meta["tables"][which]}).state_dict()
        for name, value in full.items():
            scale = {"t_proj.2.weight": 0.01, "t_proj.2.bias": 0.05}.get(name[-15:].lstrip("."), None)
            scale = 0.01 if name.endswith("t_proj.2.weight") else 0.05 if name.endswith("t_proj.2.bias") else scale
            values[name] = value if scale is None else scale * torch.from_numpy(noise(name, tuple(value.shape)))
        return values

    states = torch.stack([torch.from_numpy(noise(f"input:seq{i}", (3, 14, 32))) for i in range(7)], 1)
    return stored, weights, states


def token_loss(about):
    weights = tuple(about[f"{name}_weight"] for name in ("cls", "reg", "patch"))
    if about["weighted"]:
        return TokenLoss("weighted", weights)
    kind = "mse" if not about["cosine"] else "mse_cosine" if about["mse"] else "cosine_published"
    return TokenLoss(kind)


def check_gradients(stored, key, module, loss):
    """Loss, norm of all gradients and single gradients against the stored ones."""
    module.zero_grad()
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm()
    assert stored.error(f"{key}_loss", loss.reshape(1)) < 1e-5
    assert stored.error(f"{key}_gradnorm", norm.reshape(1)) < 5e-6
    parameters = dict(module.named_parameters())
    names = [name for name in stored.meta["outputs"] if name.startswith(f"{key}_grad:")]
    assert len(names) >= 5
    for name in names:
        assert stored.error(name, parameters[name.partition("grad:")[2]].grad) < 2e-5


@pytest.mark.parametrize("name", ["mse", "weighted_stage1", "weighted_stage2", "mse_cosine", "cosine"])
def test_losses_and_gradients_of_a_block_are_the_official_ones(case, name):
    stored, weights, states = case
    block = RecurrentBlock(32, 4, "swiglu", 2.0)
    block.load_state_dict(weights("block"))
    loss = token_loss(stored.meta["kwargs"]["losses"][name])
    check_gradients(stored, f"block_ar_{name}", block, free_running_loss(block, states[:, :4], 8, loss))
    check_gradients(stored, f"block_tf_{name}", block, teacher_forced_loss(block, states[:, :4], 8, loss))


def raptor3(weights):
    model = blockzoo.create_model(
        "raptor", embed_dim=32, num_heads=4, depth=6, boundaries=(2, 4), mlp_ratio=2.0, img_size=42
    )
    model.load_state_dict(blockzoo.convert_state_dict(model, weights("raptor3")))
    return model.train()


@pytest.mark.parametrize("name", ["weighted_stage2", "mse"])
def test_joint_loss_and_gradients_are_the_official_ones(case, name):
    stored, weights, states = case
    model = raptor3(weights)
    model.vit.requires_grad_(False)
    blocks = torch.nn.Module()
    blocks.blocks = model.blocks
    loss = joint_loss(model, states, token_loss(stored.meta["kwargs"]["losses"][name]))
    check_gradients(stored, f"raptor3_ar_{name}", blocks, loss)


def test_five_official_steps_are_repeated(case):
    stored, weights, states = case
    model = raptor3(weights)
    optimizer = torch.optim.AdamW(model.blocks.parameters(), lr=3e-4, weight_decay=1e-4)
    loss_of, losses = TokenLoss("weighted", (0.45, 0.1, 0.45)), []
    for step in range(5):
        loss = joint_loss(model, states, loss_of)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.blocks.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = published_lr(step + 1, 100, 10)
        optimizer.step()
        losses.append(loss.item())
    assert stored.error("raptor3_train5_losses", torch.tensor(losses)) < 1e-5
    assert stored.error("raptor3_train5_param:blocks.1.mlp.2.weight", model.blocks[1].mlp[2].weight) < 2e-5


def test_schedules_are_the_official_ones(golden):
    stored = golden("raptor_training")
    iterations = stored.meta["schedule_iters"]
    rates = [published_lr(step, 312_500, 10_000) for step in iterations]
    assert stored.error("lr_schedule", torch.tensor(rates)) < 1e-6
    ratios = [teacher_forcing_ratio(step, 312_500) for step in iterations]
    assert stored.error("tf_ratio", torch.tensor(ratios)) < 1e-6
    assert teacher_forcing_ratio(0, 10, 0.0) == 0


def test_absent_token_groups_leave_their_weight_to_the_others():
    prediction, target = torch.randn(2, 6, 4), torch.randn(2, 6, 4)
    error = (prediction - target).square()
    plain = TokenLoss("weighted", (0.4, 0.2, 0.4), num_prefix_tokens=1)(prediction, target)
    torch.testing.assert_close(plain, 0.5 * error[:, 0].mean() + 0.5 * error[:, 1:].mean())
    patches = TokenLoss("weighted", (0.4, 0.2, 0.4), num_prefix_tokens=0, class_token=False)(prediction, target)
    torch.testing.assert_close(patches, error.mean())
    torch.testing.assert_close(TokenLoss("cosine")(target, target), torch.tensor(-1.0))
    with pytest.raises(ValueError, match="kind='l1' must be one of mse, weighted"):
        TokenLoss("l1")
    with pytest.raises(ValueError, match="must be three numbers from 0"):
        TokenLoss("weighted", (0, 0, 0))


def test_teacher_forcing_in_one_batch_is_step_by_step():
    block, states = RecurrentBlock(12, 3, init_values=0.5).double(), torch.randn(2, 4, 6, 12, dtype=torch.double)
    loss = TokenLoss("weighted", (0.5, 0.2, 0.3))
    steps = [loss(block(states[:, i], 5 + i), states[:, i + 1]) for i in range(3)]
    torch.testing.assert_close(teacher_forced_loss(block, states, 5, loss), torch.stack(steps).mean())


def test_r2_over_batches_is_r2_of_all():
    target, metric = torch.randn(7, 3, 5, 4), LayerR2(3, 4)
    prediction = target + 0.3 * torch.randn_like(target)
    metric.update(prediction[:3], target[:3])
    metric.update(prediction[3:], target[3:])
    torch.testing.assert_close(metric.compute(), layer_r2(target, prediction, weighted=True))


# Activations.


@pytest.fixture
def cifar(tmp_path):
    """A folder in CIFAR-10's binary form with the 200 packaged images: 150 for training, 50 for test."""
    sample = load_file(ROOT / "tasks" / "core" / "cifar10_sample.safetensors")
    images, labels = sample["images"], sample["labels"].to(torch.uint8)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    records = torch.cat([labels[order, None], images[order].flatten(1)], 1)
    folder = tmp_path / "cifar" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for i in range(5):
        (folder / f"data_batch_{i + 1}.bin").write_bytes(records[30 * i : 30 * (i + 1)].numpy().tobytes())
    (folder / "test_batch.bin").write_bytes(records[150:].numpy().tobytes())
    return str(tmp_path / "cifar")


def activations(cifar, folder, **kwargs):
    torch.manual_seed(1)
    args = {"teacher": "vit_tiny_patch16_224", "teacher_kwargs": TINY, "cache_dir": str(folder), "batch_size": 32}
    return TeacherActivations(CIFAR10(cifar, val_fraction=0.2), **{**args, **kwargs})


def test_batches_hold_the_teachers_states_in_a_shuffled_but_fixed_order(cifar, tmp_path):
    data = activations(cifar, tmp_path / "cache")
    data.prepare_data()
    data.setup("fit")
    batches = list(data.train_dataloader())
    index = torch.cat([batch["index"] for batch in data.datasets["train"]])
    assert len(index) == 118 == len(index.unique()) and not torch.equal(index, index.sort().values)
    assert {len(batch["states"]) for batch in batches} == {32, 22}
    first = data.datasets["train"][0]
    images, labels = data.source.read(train=True)
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (CIFAR10.mean, CIFAR10.std))
    x = (images[first["index"]].float() / 255 - mean) / std
    with torch.no_grad():
        logits = data.teacher.forward_head(data.teacher.norm(first["states"][:, -1]))
        torch.testing.assert_close(logits, data.teacher(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(first["label"], labels[first["index"]]) and first["states"].shape == (32, 5, 17, 24)
    assert [len(list(data.val_dataloader())), len(list(data.test_dataloader()))] == [1, 2]


def test_an_interrupted_cache_goes_on_where_it_stopped(cifar, tmp_path, monkeypatch):
    append = ActivationCache.append
    calls = []

    def fails_late(self, states, labels, indices):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(states))
        append(self, states, labels, indices)

    monkeypatch.setattr(ActivationCache, "append", fails_late)
    with pytest.raises(KeyboardInterrupt):
        activations(cifar, tmp_path / "a").prepare_data()
    assert json.loads((tmp_path / "a" / "train" / "rows.json").read_text())["done"] == 64
    monkeypatch.setattr(ActivationCache, "append", lambda *args: (calls.append(len(args[1])), append(*args)))
    activations(cifar, tmp_path / "a").prepare_data()
    assert calls[:4] == [32, 32, 32, 22]
    del calls[:]
    activations(cifar, tmp_path / "a").prepare_data()
    assert calls == []
    activations(cifar, tmp_path / "b").prepare_data()
    for name in ("states.bin", "labels.bin"):
        one, other = ((tmp_path / folder / "train" / name).read_bytes() for folder in "ab")
        assert one == other


def test_a_cache_is_bounded_and_refuses_another_teachers_states(cifar, tmp_path):
    with pytest.raises(ValueError, match=r"max_gb=0.0005: 118 images .* num_images=\d+ would fit, or dtype='float16'"):
        activations(cifar, tmp_path / "cache", max_gb=0.0005).prepare_data()
    assert not list(tmp_path.glob("cache/*/states.bin"))
    activations(cifar, tmp_path / "cache", num_images=40, dtype="float16").prepare_data()
    assert (tmp_path / "cache" / "train" / "states.bin").stat().st_size == 40 * 5 * 17 * 24 * 2
    other = activations(cifar, tmp_path / "cache", num_images=40, dtype="float16")
    with torch.no_grad():
        other.teacher.cls_token.add_(1)
    with pytest.raises(ValueError, match="holds activations of something else \\(weights"):
        other.prepare_data()
    (tmp_path / "cache" / "train" / "states.bin").write_bytes(b"short")
    with pytest.raises(ValueError, match="is damaged; delete"):
        activations(cifar, tmp_path / "cache", num_images=40, dtype="float16").prepare_data()
    with pytest.raises(FileNotFoundError, match="teacher_checkpoint='gone.safetensors' is no file; train the teacher"):
        activations(cifar, tmp_path, teacher_checkpoint="gone.safetensors")
    with pytest.raises(ValueError, match="is a ResNet, not a timm VisionTransformer"):
        activations(cifar, tmp_path, teacher="resnet10t", teacher_kwargs={})


# Stages.


def distil(**kwargs):
    task = RaptorDistillation("raptor", model_kwargs=STUDENT, **kwargs)
    task.log = lambda *args, **kw: None
    return task


def test_blocks_of_the_first_stage_do_not_meet():
    task, states = distil(stage="blocks", last_weighted=True), torch.randn(2, 5, 17, 24)
    task._block_loss(states, 0.3).backward()
    together = [p.grad.clone() for p in task.model.blocks.parameters()]
    apart = []
    for index in range(2):
        alone = distil(stage="blocks", last_weighted=True, train_blocks=[index])
        alone.model.load_state_dict(task.model.state_dict())
        alone._block_loss(states, 0.3).backward()
        assert all(p.grad is None for p in alone.model.blocks[1 - index].parameters())
        apart += [p.grad for p in alone.model.blocks[index].parameters()]
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)
    task.configure_gradient_clipping(None, 0.01, "norm")
    for block in task.model.blocks:
        norm = torch.stack([p.grad.norm() for p in block.parameters()]).norm()
        assert float(norm) == pytest.approx(0.01, rel=1e-3)
    assert not any(p.requires_grad for p in task.model.vit.parameters())


def test_wrong_arguments_of_the_task_are_named(tmp_path):
    with pytest.raises(ValueError, match="is a TimesNet\\w*, not a Raptor"):
        RaptorDistillation("timesnet_forecast")
    with pytest.raises(ValueError, match=r"train_blocks=\[2\] must be some of \[0, 1\]"):
        distil(stage="blocks", train_blocks=[2])
    with pytest.raises(ValueError, match="anneal_fraction=2 must be in"):
        distil(anneal_fraction=2)
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="has no block 0"):
        distil(block_checkpoints=[str(tmp_path / "a.safetensors")])
    with pytest.raises(ValueError, match="backbone_checkpoint=.* lacks vit.cls_token"):
        LinearProbe("raptor", model_kwargs=STUDENT, backbone_checkpoint=str(tmp_path / "a.safetensors"))


def test_a_teacher_that_does_not_fit_is_one_line(tmp_path, capsys):
    with pytest.raises(ValueError, match="teacher='resnet18' is a ResNet, not a timm VisionTransformer"):
        load_vit("resnet18")
    save_file(load_vit("vit_tiny_patch16_224", {**TINY, "depth": 3}).state_dict(), tmp_path / "small.safetensors")
    save_file(load_vit("vit_tiny_patch16_224", {**TINY, "embed_dim": 48}).state_dict(), tmp_path / "wide.safetensors")
    for name, wrong in (("small", "it lacks blocks.3.norm1.weight"), ("wide", r"it has \(1, 1, 48\) as cls_token")):
        with pytest.raises(ValueError, match=f"teacher_checkpoint='.*{name}.* does not fit .*{wrong}"):
            load_vit("vit_tiny_patch16_224", TINY, checkpoint=str(tmp_path / f"{name}.safetensors"))
    for teacher, more in (
        ("resnet18", []),
        ("vit_tiny_patch16_224", ["--checkpoint", str(tmp_path / "wide.safetensors")]),
        ("vit_tiny_patch16_224", ["--teacher-kwargs", "[1]"]),
        ("vit_tiny_patch16_224", ["--strength", "0"]),
    ):
        assert main(["raptor", "report", "--teacher", teacher, *more, "--out", str(tmp_path / "report")]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert not more or more[0] in said or more[0] == "--checkpoint"


@pytest.mark.parametrize("stage", ["blocks", "joint"])
def test_a_raptor_learns_from_a_float32_teacher_in_bfloat16(cifar, tmp_path, stage):
    data = activations(cifar, tmp_path / "cache")
    task = RaptorDistillation("raptor", model_kwargs=STUDENT, stage=stage)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=1, precision="bf16-true", enable_checkpointing=False, **quiet
    )
    trainer.fit(task, datamodule=data)
    assert next(task.model.blocks[0].parameters()).dtype == torch.bfloat16
    assert next(data.teacher.parameters()).dtype == torch.float32
    assert trainer.callback_metrics["train/loss"].isfinite() and trainer.callback_metrics["val/r2_last"].isfinite()


def test_probe_is_a_logistic_regression():
    torch.manual_seed(0)
    labels = torch.arange(300) % 3
    x = torch.nn.functional.one_hot(labels, 3) * 6.0 + torch.randn(300, 3)
    assert fit_probe((x[:200], labels[:200]), (x[200:], labels[200:])) > 0.98
    assert fit_probe((x[:200], labels[:200]), (100 * x[200:] + 5, (labels[200:] + 1) % 3)) < 0.3
    noise = torch.randn(300, 3)
    assert fit_probe((noise[:200], labels[:200]), (noise[200:], labels[200:])) < 0.55


def test_a_shallow_student_learns_the_states_at_phase_ends(cifar, tmp_path):
    data = activations(cifar, tmp_path / "cache", layers=[0, 3, 4])
    data.prepare_data()
    all_states = activations(cifar, tmp_path / "cache")
    all_states.prepare_data()
    few, whole = data.datasets["train"][0]["states"], all_states.datasets["train"][0]["states"]
    assert torch.equal(few, whole[:, [0, 3, 4]])
    for layers in ([], [1, 1], [3, 2], [0, 5], [-1, 2]):
        with pytest.raises(ValueError, match="must increase, from 0 on and to at most 4"):
            activations(cifar, tmp_path / "cache", layers=layers)


def test_a_study_measures_students_and_goes_on_where_it_stopped(cifar, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(2)
    vit = {**TINY, "dynamic_img_size": True}
    teacher = blockzoo.create_model("timm:vit_tiny_patch16_224", **vit)
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    more = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.max_epochs=1"]
    more += ["--trainer.enable_model_summary=false", "--trainer.log_every_n_steps=1", "--data.batch_size=50"]
    more += [f"--data.teacher_kwargs={json.dumps(vit)}", f"--data.teacher_checkpoint={tmp_path}/teacher.safetensors"]
    more += [f"--data.source.init_args.root={cifar}", "--data.source.init_args.val_fraction=0.2"]
    args = ["--out", "study", "--seeds", "0", "--images", "50", *more]
    assert main(["raptor", "study", "--blocks", "1", "--kinds", "raptor", *args]) == 0
    assert capsys.readouterr().out.count("raptor1_seed0: acc") == 1
    assert main(["raptor", "study", "--blocks", "1", *args]) == 0
    summary = json.loads(Path("study/summary.json").read_text())
    printed = capsys.readouterr().out
    assert "raptor1_seed0: acc" not in printed and "| shallow | 1 |" in printed
    raptor, shallow = summary["rows"]
    assert (raptor["kind"], shallow["kind"]) == ("raptor", "shallow")
    assert raptor["parameters"] > shallow["parameters"]  # the depth scales
    run_ = blockzoo.create_model(f"local-dir:{summary['runs'][1]['folder']}", pretrained=True)
    assert run_.depth == 1 and run_.bounds == [0, 1]
    for row in summary["runs"]:
        assert 0 <= row["acc"] <= 1 and row["share"] == row["probe"] / summary["teacher"]["probe"]


def test_the_packaged_configs_run_from_teacher_to_probe(cifar, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.max_epochs=1"]
    quick += ["--trainer.enable_model_summary=false", "--trainer.log_every_n_steps=1"]

    def fit(name, *more):
        return run(["fit", "--config", f"raptor/cifar10_{name}", *quick, *more])

    held = "val_fraction=0.2"
    fit("teacher", f"--data.root={cifar}", "--data.batch_size=50", f"--data.{held}")
    source = [f"--data.source.init_args.root={cifar}", f"--data.source.init_args.{held}", "--data.batch_size=50"]
    blocks = fit("blocks", *source)
    joint = fit("joint", *source)
    first = load_file("runs/raptor_cifar10_blocks/version_0/model.safetensors")
    teacher = load_file("runs/raptor_cifar10_teacher/version_0/model.safetensors")
    last = load_file("runs/raptor_cifar10_joint/version_0/model.safetensors")
    for name in ("pos_embed", "norm.weight", "head.weight"):
        assert torch.equal(first[f"vit.{name}"], teacher[name]) and torch.equal(last[f"vit.{name}"], teacher[name])
    name = "blocks.1.mlp.0.weight"
    assert not torch.equal(first[name], last[name]) and (first[name] - last[name]).abs().max() < 0.02
    metrics = joint.trainer.callback_metrics
    assert {"test/r2_last", "test/r2_mean", "test/acc", "test/acc_teacher", "test/loss"} <= set(metrics)
    assert metrics["test/r2_mean"] > float(blocks.trainer.callback_metrics["test/r2_mean"]) - 0.5
    probe = fit("probe", f"--data.root={cifar}", "--data.batch_size=50", f"--data.{held}")
    probed = load_file("runs/raptor_cifar10_probe/version_0/model.safetensors")
    assert torch.equal(probed[name], last[name]) and "head.weight" in probed
    assert "test/acc" in probe.trainer.callback_metrics


def test_a_probe_leaves_the_backbone_as_it_is():
    probe = LinearProbe("nextvit_cifar")
    probe.log = lambda *args, **kwargs: None
    before = {name: value.clone() for name, value in probe.train().state_dict().items()}
    probe.shared_step({"x": torch.randn(2, 3, 32, 32), "label": torch.tensor([1, 2])}, "train").backward()
    assert all(torch.equal(value, before[name]) for name, value in probe.state_dict().items())
    assert {name for name, p in probe.model.named_parameters() if p.grad is not None} == {
        "head.fc.weight",
        "head.fc.bias",
    }


def test_a_cache_of_replaced_images_is_refused(cifar, tmp_path):
    activations(cifar, tmp_path / "cache").prepare_data()
    path = Path(cifar) / "cifar-10-batches-bin" / "data_batch_1.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(ValueError, match="activations of something else \\(content"):
        activations(cifar, tmp_path / "cache").prepare_data()


def test_a_cache_of_other_preprocessing_is_refused(cifar, tmp_path):
    activations(cifar, tmp_path / "cache").prepare_data()
    other = activations(cifar, tmp_path / "cache")
    other.source.mean = (0.1, 0.2, 0.3)
    with pytest.raises(ValueError, match="activations of something else \\(preprocessing"):
        other.prepare_data()


def test_a_source_of_several_labels_is_refused(cifar, tmp_path, monkeypatch):
    data = activations(cifar, tmp_path / "cache")
    monkeypatch.setattr(CIFAR10, "preprocessing", property(lambda self: {"multi_label": True}))
    with pytest.raises(ValueError, match="the source has multi_label=true"):
        data.prepare_data()
