"""Commands on video: prediction from files, the demo's part, the benchmark's plain formulation."""

import json

import numpy as np
import pytest
import torch

import blockzoo
from blockzoo.__main__ import main
from blockzoo.tasks.video import bench as bench_p3d
from blockzoo.tasks.video.camera_moves import test_footage as footage
from blockzoo.tasks.video.evaluate import evaluate_camera_moves

SHIPPED = "p3d_tiny.camera_moves"


@pytest.fixture
def pan(tmp_path):
    """Makes a video of a window that moves over the packaged footage."""
    av = pytest.importorskip("av", reason="needs the extra 'video'")

    def make(name, step, frames=16):
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width = stream.height = 48
            stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
            for i in range(frames):
                left = 60 + step * (i - frames // 2)
                picture = footage()[20 + i, :, 24:72, left : left + 48].permute(1, 2, 0).numpy()
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return str(path)

    return make


def test_predict_says_which_way_the_camera_moves(pan, capsys):
    files = [pan("a.mp4", 3), pan("b.mp4", -3)]
    assert main(["predict", SHIPPED, *files, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["label"] for row in rows] == ["right", "left"] and [row["video"] for row in rows] == files


def test_predict_names_a_file_that_is_too_short_or_no_video(pan, tmp_path, capsys):
    (tmp_path / "no.mp4").write_bytes(b"nothing")
    for file, said in ((pan("short.mp4", 1, 5), "has 5 frames, a clip needs 8"), (str(tmp_path / "no.mp4"), "no.mp4")):
        assert main(["predict", SHIPPED, file]) == 2
        assert said in capsys.readouterr().err


def test_demo_agrees_with_the_card_and_one_frame_is_at_chance():
    model = blockzoo.create_model(SHIPPED, pretrained=True).eval()
    measured, sections = evaluate_camera_moves(model)
    assert measured == pytest.approx(0.965, abs=1e-6)
    assert len(sections) == 2 and "one frame 25%" in sections[1][1] and "<img" in sections[0][1]


def test_benchmark_compares_before_it_measures(monkeypatch):
    small = {"depths": (1, 1, 1, 1), "widths": (4, 4, 4, 4), "stem_chans": 4}
    create = blockzoo.create_model
    monkeypatch.setattr(blockzoo, "create_model", lambda name: create(name, num_classes=3, **small))
    monkeypatch.setattr(bench_p3d, "CASES", [("p3d63", (16, 64, 64))])
    rows = bench_p3d.rows([1, 2], runs=1, compiled=False)  # training in between must not part the variants
    assert [row["variant"] for row in rows] == ["plain", "as built", "deployed", "plain", "as built"] * 2
    assert rows[0]["speedup"] == 1.0
    monkeypatch.setattr(bench_p3d.PlainP3D, "forward", lambda self, x: torch.zeros(len(x), 3))
    with pytest.raises(AssertionError, match="differs"):
        bench_p3d.rows([1], runs=1, compiled=False)
