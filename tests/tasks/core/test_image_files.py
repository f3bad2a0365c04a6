"""Image files of every depth and mode, upright, and what is left out of folders by class."""

import gzip

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from blockzoo.tasks.core.image_files import load_image
from blockzoo.tasks.core.labelled_files import UnreadableFileError, class_folders
from blockzoo.tasks.core.predictions import files_below

GREY = np.array([[0, 128], [255, 10]], np.uint8)


def grey(path):
    return np.asarray(load_image(path, 1)).tolist()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("a.png", GREY.astype(np.uint16) * 257),
        ("a.tif", GREY.astype(np.uint16) * 257),
        ("f.tif", GREY / np.float32(255)),
    ],
)
def test_depth_is_scaled_to_bytes(tmp_path, name, values):
    Image.fromarray(values).save(tmp_path / name)
    assert grey(tmp_path / name) == GREY.tolist()
    assert np.asarray(load_image(tmp_path / name))[..., 1].tolist() == GREY.tolist()


@pytest.mark.parametrize(
    ("mode", "suffix"), [("P", "png"), ("LA", "png"), ("RGBA", "png"), ("CMYK", "tif"), ("1", "png")]
)
def test_other_modes_keep_their_grey_values(tmp_path, mode, suffix):
    path = tmp_path / f"a.{suffix}"
    image = Image.fromarray(GREY)
    (image.convert(mode, dither=Image.Dither.NONE) if mode == "1" else image.convert(mode)).save(path)
    assert grey(path) == ([[0, 255], [255, 0]] if mode == "1" else GREY.tolist())


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize(("tag", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_images_are_upright(tmp_path, suffix, tag, turns):
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(GREY).save(tmp_path / f"a.{suffix}", exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    assert grey(tmp_path / f"a.{suffix}") == np.rot90(GREY, turns).tolist()


def test_values_without_a_white_and_huge_images_are_refused_by_name(tmp_path):
    Image.fromarray(GREY.astype(np.int32) * 65536).save(tmp_path / "whole.tif")
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "float.tif")
    Image.new("L", (14000, 14000)).save(tmp_path / "huge.png")
    for name in ("whole.tif", "float.tif", "huge.png"):
        with pytest.raises(UnreadableFileError, match=name):
            load_image(tmp_path / name)


def test_what_a_decoder_of_avif_raises_names_the_file(tmp_path):
    if "AVIF" not in Image.SAVE and not (Image.init() and "AVIF" in Image.SAVE):
        pytest.skip("this Pillow writes no AVIF")
    path = tmp_path / "a.avif"
    Image.new("RGB", (12, 10), (9, 99, 200)).save(path)
    whole = path.read_bytes()
    start = whole.index(b"mdat") + 4
    path.write_bytes(whole[:start] + bytes(len(whole) - start))
    with pytest.raises(UnreadableFileError, match="a.avif is not a readable image"):
        load_image(path)


def test_formats_that_start_programs_or_unpack_without_bound_are_not_read(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: started.append(args))
    Image.fromarray(GREY).save(tmp_path / "a.png", "EPS")
    cards = ("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0", "XTENSION= 'BINTABLE'", "ZBITPIX = 8")
    cards += ("ZNAXIS  = 2", "ZNAXIS1 = 1", "ZNAXIS2 = 1", "END")
    (tmp_path / "b.png").write_bytes("".join(card.ljust(80) for card in cards).encode() + gzip.compress(b"0" * 99))
    for name in ("a.png", "b.png"):
        with pytest.raises(UnreadableFileError, match=f"{name} is not a readable image: cannot identify"):
            load_image(tmp_path / name)
    assert not started


def test_junk_is_no_class_and_an_empty_class_is_named(tmp_path):
    for name in ("cat/a.png", "cat/._a.png", "dog/deep/b.PNG", ".ipynb_checkpoints/a.png", "__MACOSX/cat/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names, files = class_folders(tmp_path, "image", (".png",))
    assert names == ("cat", "dog") and [(path.name, label) for path, label in files] == [("a.png", 0), ("b.PNG", 1)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no images"):
        class_folders(tmp_path, "image", (".png",))


def test_links_are_followed_but_not_in_circles(tmp_path):
    for name in ("store/a.png", "set/cat/b.png", "set/dog/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "set" / "cat" / "more").symlink_to(tmp_path / "store", target_is_directory=True)
    (tmp_path / "set" / "cat" / "folder.png").mkdir()
    _, files = class_folders(tmp_path / "set", "image", (".png",))
    assert [path.name for path, _ in files] == ["b.png", "a.png", "c.png"]
    assert [path.name for path in files_below([str(tmp_path / "set")], "image", (".png",))] == [
        "b.png",
        "a.png",
        "c.png",
    ]
    (tmp_path / "store" / "back").symlink_to(tmp_path / "set" / "cat", target_is_directory=True)
    with pytest.raises(ValueError, match="more/back is a link to a folder that it is in, .*set/cat; remove it"):
        class_folders(tmp_path / "set", "image", (".png",))


def test_a_workers_traceback_becomes_one_line():
    text = (
        "Caught UnreadableFileError in worker 0.\nOriginal Traceback:\n  line\nx.UnreadableFileError: a.png is broken\n"
    )
    assert str(UnreadableFileError(text)) == "a.png is broken"
