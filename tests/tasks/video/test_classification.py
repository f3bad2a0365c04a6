"""The video task: accuracy over videos, and the command line on tiny real files."""

import json

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from blockzoo.__main__ import main as predict
from blockzoo.tasks.app.training import main
from blockzoo.tasks.video.camera_moves import CameraMoves
from blockzoo.tasks.video.classification import VideoClassification
from blockzoo.tasks.video.metrics import VideoAccuracy

TINY = {"depths": (1, 1, 1, 1), "widths": (4, 4, 4, 4), "stem_chans": 4, "num_classes": 2}


def test_video_accuracy_averages_the_clips_of_a_video():
    metric = VideoAccuracy(3)
    scores = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]])
    metric.update(scores, torch.tensor([1, 1, 0]), torch.tensor([7, 7, 9]))  # mean (0.3, 0.45, 0.25): right
    metric.update(
        torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([0]), torch.tensor([9])
    )  # mean (0.45, 0.2, 0.35): right
    metric.update(torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([1]), torch.tensor([2]))
    assert float(metric.compute()) == pytest.approx(2 / 3)
    top2 = VideoAccuracy(3, top_k=2)
    top2.update(torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]]), torch.tensor([1, 2]), torch.tensor([0, 1]))
    assert float(top2.compute()) == 0.5


def test_options_for_images_are_refused():
    for kwargs in ({"cutmix": 1.0}, {"channels_last": True}):
        with pytest.raises(ValueError, match="is for images"):
            VideoClassification("p3d_tiny", **kwargs)


def test_a_task_that_sees_one_frame_is_at_chance():
    task = VideoClassification("p3d_tiny", {"center_time": False})
    data = CameraMoves("unused", still=True, places=8)
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    (results,) = Trainer(accelerator="cpu", devices=1, **quiet).test(task, datamodule=data, verbose=False)
    assert results["test/acc"] == results["test/video_acc"] == 0.25


def test_fit_from_the_command_line(tmp_path, monkeypatch, capsys):
    av = pytest.importorskip("av", reason="needs the extra 'video'")
    for part in ("train", "val", "test"):
        for label, step in (("left", -2), ("right", 2)):
            path = tmp_path / part / label / "a.mp4"
            path.parent.mkdir(parents=True)
            wide = np.random.default_rng(0).integers(0, 255, (32, 128, 3), dtype=np.uint8)
            with av.open(str(path), "w") as container:
                stream = container.add_stream("mpeg4", rate=25)
                stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
                for i in range(12):
                    start = 40 + step * i
                    frame = np.ascontiguousarray(wide[:, start : start + 48])
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                container.mux(stream.encode())
    monkeypatch.chdir(tmp_path)
    config = {
        "model": {
            "class_path": "VideoClassification",
            "init_args": {"model_name": "p3d63", "model_kwargs": {**TINY}, "mixup": 0.2, "label_smoothing": 0.1},
        },
        "data": {
            "class_path": "VideoFolder",
            "init_args": {"root": str(tmp_path), "num_frames": 4, "img_size": 32, "num_clips": 3, "num_workers": 0},
        },
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "runs", "name": "tiny"}},
            "callbacks": [{"class_path": "RunFolder"}],
        },
    }
    (tmp_path / "tiny.json").write_text(json.dumps(config, default=list))
    assert main(["fit", "--config", "tiny.json"]) == 0
    results = json.loads((tmp_path / "runs" / "tiny" / "version_0" / "results.json").read_text())
    assert {"test/acc", "test/video_acc", "test/loss"} <= set(results["test"])
    assert main(["predict", "runs/tiny/version_0"]) == 0
    rows = (tmp_path / "runs" / "predictions.csv").read_text().splitlines()
    assert rows[0].startswith("sample,video,index,label,left,right") and len(rows) == 7
    _assert_predict_on_files_agrees(rows[1:], capsys)
    (tmp_path / "train" / "left" / "a.mp4").write_bytes(b"broken")
    assert main(["fit", "--config", "tiny.json"]) == 2
    assert "train/left/a.mp4" in capsys.readouterr().err


def _assert_predict_on_files_agrees(rows, capsys):
    """Probabilities of the run's own test clips, averaged over a video, are those of `predict` on its file."""
    capsys.readouterr()
    assert predict(["predict", "runs/tiny/version_0", "test", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    own = np.array([[float(cell) for cell in row.split(",")[4:]] for row in rows]).reshape(2, 3, 2).mean(1)
    names = [list(row["probabilities"]) for row in found]
    assert names == [["left", "right"]] * 2
    np.testing.assert_allclose([list(row["probabilities"].values()) for row in found], own, atol=1e-6)
