"""Arrays of people's files: read as they are, but no code, and no more memory than the file can mean."""

import io
import zipfile

import numpy as np
import pytest

from blockzoo.tasks.core import stored
from blockzoo.tasks.core.stored import check_unpacked, read_npz


def test_a_bound_grows_with_the_file_and_small_things_always_pass():
    check_unpacked("x", 2**30, 1)
    check_unpacked("x", 200 * 2**25, 2**25)
    for size, stored_bytes in ((2**30 + 1, 1), (200 * 2**25 + 1, 2**25)):
        with pytest.raises(ValueError, match=f"x would unpack from {stored_bytes:,} to {size:,} bytes"):
            check_unpacked("x", size, stored_bytes)


def test_wanted_arrays_are_read_and_all_are_named(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.arange(3.0), b=np.array(["text"]), c=np.array([{}], object))
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("readme.txt", "no array")
    found, names = read_npz(tmp_path / "x.npz", ["b", "a", "gone"])
    assert list(found) == ["b", "a"] and found["a"].tolist() == [0, 1, 2] and names == ["a", "b", "c"]
    with pytest.raises(ValueError, match="it holds Python objects, which are never read"):
        read_npz(tmp_path / "x.npz")


def test_a_header_may_not_claim_more_than_the_file_can_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "_SMALL", 2**20)
    header = io.BytesIO()
    claimed = {"descr": "<f8", "fortran_order": False, "shape": (10**15,)}
    np.lib.format.write_array_header_1_0(header, claimed)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue())
    with pytest.raises(ValueError, match="a would unpack from"):
        read_npz(tmp_path / "x.npz")
