"""Downloads from a server that does everything wrong."""

import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace

import pytest

from blockzoo.checkpoints import (
    ChecksumError,
    DownloadError,
    OfflineError,
    Source,
    cache_path,
    fetch,
    is_cached,
    verify_file,
)

BODY = bytes(range(256)) * 4000
REVISION = "0123456789" * 4


def test_a_file_is_fetched_once_and_then_cached(server, cache, artifact, debris):
    item = artifact()
    assert not is_cached(item)
    path = fetch(item)
    assert path.read_bytes() == BODY and path.is_relative_to(cache) and is_cached(item)
    assert fetch(item) == path and len(server.requests) == 1 and debris() == ["w.bin"]


@pytest.mark.parametrize(
    "faults",
    [["truncate"], ["no-length"], ["truncate", "no-length", 500], [503, 503], [429], ["redirect"], ["truncate", 429]],
)
def test_passing_faults_are_overcome(server, cache, artifact, faults):
    server.faults = list(faults)
    assert fetch(artifact()).read_bytes() == BODY


def test_a_stalled_transfer_is_resumed(server, cache, artifact, monkeypatch):
    monkeypatch.setenv("BLOCKZOO_TIMEOUT", "0.3")
    server.faults = ["stall"]
    assert fetch(artifact()).read_bytes() == BODY
    assert server.requests[1][1] == f"bytes={len(BODY) // 2}-"


def test_a_broken_transfer_is_resumed_by_a_later_call(server, cache, artifact):
    server.faults = ["truncate"] + [500] * 4
    with pytest.raises(DownloadError, match="gave up after 5 tries: HTTP 500"):
        fetch(artifact())
    assert not is_cached(artifact())
    assert fetch(artifact()).read_bytes() == BODY
    assert server.requests[-1][1] == f"bytes={len(BODY) // 2}-"


def test_a_killed_process_leaves_a_transfer_that_another_resumes(server, cache, artifact):
    server.faults = ["slow"]
    child = subprocess.Popen([sys.executable, "-P", "-c", child_code(artifact())])
    part = cache_path(artifact()).with_name("w.bin.part")
    deadline = time.monotonic() + 30
    while (not part.exists() or part.stat().st_size < 100_000) and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    child.kill()
    child.wait()
    have = part.stat().st_size
    assert 0 < have < len(BODY)
    assert fetch(artifact()).read_bytes() == BODY
    assert server.requests[-1][1] == f"bytes={have}-"


def child_code(item) -> str:
    return textwrap.dedent(f"""
        from blockzoo.checkpoints import fetch, Artifact, Source
        print(fetch({item!r}))
    """)


def test_two_processes_at_once_make_one_download(server, cache, artifact):
    server.faults = ["slow"]
    command = [sys.executable, "-P", "-c", child_code(artifact())]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = {child.communicate()[0].strip() for child in children}
    assert outputs == {str(cache_path(artifact()))} and len(server.requests) == 1


def test_a_server_without_ranges_sends_the_whole_again(server, cache, artifact):
    server.ranges, server.faults = False, ["truncate"]
    assert fetch(artifact()).read_bytes() == BODY
    assert server.requests[1][1] is not None


def test_a_partial_file_that_is_too_long_is_dropped(server, cache, artifact):
    path = cache_path(artifact())
    path.parent.mkdir(parents=True)
    path.with_name("w.bin.part").write_bytes(BODY + b"more")
    assert fetch(artifact()).read_bytes() == BODY


def test_a_wrong_hash_names_both_and_leaves_nothing(server, cache, artifact, debris):
    item = replace(artifact(), sha256="f" * 64)
    with pytest.raises(ChecksumError) as error:
        fetch(item)
    assert hashlib.sha256(BODY).hexdigest() in str(error.value) and "f" * 64 in str(error.value)
    assert debris() == [] and len(server.requests) == 1


def test_a_file_of_the_wrong_size_leaves_nothing(server, cache, artifact, debris):
    with pytest.raises(ChecksumError, match=f"larger than the expected {len(BODY) - 1} bytes"):
        fetch(replace(artifact(), size=len(BODY) - 1))
    assert debris() == []


def test_a_source_with_wrong_bytes_is_skipped(server, cache, artifact):
    server.faults = ["corrupt"]
    item = artifact(Source(url=f"{server.url}/bad.bin"), Source(url=f"{server.url}/good.bin"))
    assert fetch(item).read_bytes() == BODY
    assert [path for path, _ in server.requests] == ["/bad.bin", "/good.bin"]


def test_a_missing_file_is_not_asked_for_again(server, cache, artifact):
    server.faults = [404] * 9
    with pytest.raises(DownloadError, match="HTTP 404"):
        fetch(artifact())
    assert len(server.requests) == 1


def test_a_web_page_never_reaches_the_cache(server, cache, artifact, debris):
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="web page"):
        fetch(artifact())
    assert debris() == []


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


def test_mirrors_come_first(server, cache, artifact, monkeypatch):
    monkeypatch.setenv("BLOCKZOO_MIRRORS", f"{server.url}/one/; {server.url}/two")
    server.faults = [404]
    item = artifact()
    fetch(item)
    assert [path for path, _ in server.requests] == [f"/{name}/{item.sha256[:16]}/w.bin" for name in ("one", "two")]


def test_proxies_of_the_environment_are_used(server, cache, artifact, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", server.url)
    fetch(artifact(Source(url="http://no-such-host.invalid/w.bin")))
    assert server.requests[0][0] == "http://no-such-host.invalid/w.bin"


def test_file_addresses_and_given_cache_folders(server, artifact, tmp_path):
    (tmp_path / "source bin").write_bytes(BODY)
    item = artifact(Source(url=(tmp_path / "source bin").as_uri()))
    assert fetch(item, cache_dir=tmp_path / "other").is_relative_to(tmp_path / "other")
    with pytest.raises(DownloadError, match="No such file"):
        fetch(artifact(Source(url=(tmp_path / "none").as_uri())), cache_dir=tmp_path / "third")


def test_a_dead_server_is_an_error_that_lists_the_sources(server, cache, artifact):
    item = artifact(Source(url="http://127.0.0.1:9/a.bin"), Source(url="http://127.0.0.1:9/b.bin"))
    with pytest.raises(DownloadError, match=r"a\.bin: gave up after 5 tries: ConnectError[\s\S]*b\.bin: gave up"):
        fetch(item)


def test_the_hub_path_is_verified_too(server, cache, artifact, debris, tmp_path):
    item = artifact(Source(hub_repo="org/name", hub_file="w.bin", hub_revision=REVISION))
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf")}
    run = subprocess.run(
        [sys.executable, "-P", "-c", child_code(item)], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert cache_path(item).read_bytes() == BODY and debris() == ["w.bin"]
    assert (f"/org/name/resolve/{REVISION}/w.bin", None) in server.requests

    shutil.rmtree(cache)
    server.faults = ["corrupt"]
    run = subprocess.run(
        [sys.executable, "-P", "-c", child_code(item)], env=environment, capture_output=True, text=True, check=False
    )
    assert "ChecksumError" in run.stderr and item.sha256 in run.stderr and debris() == []


def test_verification_names_the_difference(artifact, tmp_path):
    (tmp_path / "w.bin").write_bytes(BODY[:-1])
    with pytest.raises(ChecksumError, match=f"has {len(BODY) - 1} bytes, expected {len(BODY)}"):
        verify_file(tmp_path / "w.bin", artifact())
