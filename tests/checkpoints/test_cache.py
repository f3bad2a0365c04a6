"""Where weights are looked for, in which order, and what the cache promises."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blockzoo.checkpoints import (
    ChecksumError,
    DownloadError,
    OfflineError,
    Source,
    cache_path,
    cache_root,
    fetch,
    is_cached,
    verify_file,
)

BODY = bytes(range(256)) * 4000


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    monkeypatch.setattr("blockzoo.checkpoints.download.files", lambda name: folder)
    return folder


def test_the_cache_folder_is_the_argument_or_the_environments(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BLOCKZOO_CACHE", "~/own")
    assert cache_root("here") == Path("here") and cache_root() == tmp_path / "own"
    monkeypatch.delenv("BLOCKZOO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "blockzoo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == tmp_path / ".cache" / "blockzoo"


def test_packaged_weights_are_used_in_place(server, cache, artifact, package):
    (package / "w.bin").write_bytes(BODY)
    item = artifact(Source(url=f"{server.url}/w.bin"), Source(package="w.bin"))
    assert is_cached(item) and fetch(item) == package / "w.bin"
    assert server.requests == [] and not cache.exists()


def test_damaged_or_absent_packaged_weights_are_fetched_elsewhere(server, cache, artifact, package):
    item = artifact(Source(package="w.bin"), Source(url=f"{server.url}/w.bin"))
    assert not is_cached(item) and fetch(item) == cache_path(item)
    (package / "w.bin").write_bytes(BODY[1:])
    assert is_cached(item) and fetch(item) == cache_path(item) and len(server.requests) == 1


def test_packaged_weights_without_another_source_say_what_is_wrong(cache, artifact, package):
    with pytest.raises(DownloadError, match=r"packaged w\.bin: not in this installation"):
        fetch(artifact(Source(package="w.bin")))
    (package / "w.bin").write_bytes(BODY[1:])
    with pytest.raises(ChecksumError, match=f"has {len(BODY) - 1} bytes, expected {len(BODY)}"):
        fetch(artifact(Source(package="w.bin")))


def test_a_cached_file_is_hashed_once_while_it_does_not_change(server, cache, artifact, monkeypatch):
    path = fetch(artifact())
    monkeypatch.delattr("blockzoo.checkpoints.verification.hashlib")
    assert fetch(artifact()) == path
    os.utime(path, ns=(1, 1))
    with pytest.raises(NameError, match="hashlib"):
        fetch(artifact())


def test_a_cache_in_which_nothing_can_be_written_serves_its_files(server, cache, artifact):
    path = fetch(artifact())
    stamp = path.with_name("w.bin.verified")
    stamp.unlink()
    stamp.mkdir()
    assert is_cached(artifact()) and fetch(artifact()) == path and len(server.requests) == 1


def test_asking_whether_a_file_is_cached_removes_nothing(server, cache, artifact):
    path = fetch(artifact())
    path.write_bytes(b"other")
    assert not is_cached(artifact()) and path.exists()


def test_threads_at_once_make_one_download(server, cache, artifact):
    server.faults = ["slow"]
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(fetch, [artifact()] * 4))
    assert paths == {cache_path(artifact())} and len(server.requests) == 1


def test_a_file_is_fetched_once_and_then_cached(server, cache, artifact, debris):
    item = artifact()
    assert not is_cached(item)
    path = fetch(item)
    assert path.read_bytes() == BODY and path.is_relative_to(cache) and is_cached(item)
    assert fetch(item) == path and len(server.requests) == 1 and debris() == ["w.bin"]


def test_two_processes_at_once_make_one_download(server, cache, artifact, child_code):
    server.faults = ["slow"]
    command = [sys.executable, "-c", child_code(artifact())]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = {child.communicate()[0].strip() for child in children}
    assert outputs == {str(cache_path(artifact()))} and len(server.requests) == 1


def test_a_damaged_cached_file_is_noticed_and_replaced(server, cache, artifact):
    path = fetch(artifact())
    stamp = path.stat().st_mtime_ns
    path.write_bytes(BODY[:-1] + b"!")
    os.utime(path, ns=(stamp + 1000, stamp + 1000))
    assert not is_cached(artifact())
    assert fetch(artifact()).read_bytes() == BODY


def test_offline_mode_serves_the_cache_and_names_what_is_missing(server, cache, artifact, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OfflineError, match=str(cache_path(artifact()))):
        fetch(artifact())
    assert server.requests == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    path = fetch(artifact())
    monkeypatch.setenv("BLOCKZOO_OFFLINE", "true")
    assert fetch(artifact()) == path
    path.write_bytes(b"other")
    with pytest.raises(OfflineError, match=f"damaged in the cache .* put it at {path} .from {server.url}/w.bin"):
        fetch(artifact())


def test_mirrors_come_first(server, cache, artifact, monkeypatch):
    monkeypatch.setenv("BLOCKZOO_MIRRORS", f"{server.url}/one/; {server.url}/two")
    server.faults = [404]
    item = artifact()
    fetch(item)
    assert [path for path, _ in server.requests] == [f"/{name}/{item.sha256[:16]}/w.bin" for name in ("one", "two")]


def test_file_addresses_and_given_cache_folders(server, artifact, tmp_path):
    (tmp_path / "source bin").write_bytes(BODY)
    item = artifact(Source(url=(tmp_path / "source bin").as_uri()))
    assert fetch(item, cache_dir=tmp_path / "other").is_relative_to(tmp_path / "other")
    with pytest.raises(DownloadError, match="No such file"):
        fetch(artifact(Source(url=(tmp_path / "none").as_uri())), cache_dir=tmp_path / "third")


def test_verification_names_the_difference(artifact, tmp_path):
    (tmp_path / "w.bin").write_bytes(BODY[:-1])
    with pytest.raises(ChecksumError, match=f"has {len(BODY) - 1} bytes, expected {len(BODY)}"):
        verify_file(tmp_path / "w.bin", artifact())
