"""Weights on a hub: the stock client fetches, the same checks apply."""

import os
import subprocess
import sys

import pytest

from blockzoo.checkpoints import Source, cache_path

REVISION = "0123456789" * 4


@pytest.fixture
def fetch_in_child(server, tmp_path, child_code):
    """Fetches in a new process, because the hub's client reads its environment when it is imported."""

    def run(item) -> subprocess.CompletedProcess:
        environment = {
            **os.environ,
            "HF_ENDPOINT": server.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "1",
            "HF_HOME": str(tmp_path / "hf"),
        }
        command = [sys.executable, "-c", child_code(item)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


def on_hub(name: str = "w.bin") -> Source:
    return Source(hub_repo="org/name", hub_file=name, hub_revision=REVISION)


def test_the_pinned_file_is_fetched_and_kept_in_our_cache_alone(
    server, cache, artifact, debris, tmp_path, fetch_in_child
):
    run = fetch_in_child(artifact(on_hub()))
    assert run.returncode == 0, run.stderr
    assert cache_path(artifact()).read_bytes() == server.body and debris() == ["w.bin"]
    assert (f"/org/name/resolve/{REVISION}/w.bin", None) in server.requests
    assert not [path for path in (tmp_path / "hf").rglob("*") if path.is_file() and path.stat().st_size > 1000]


def test_wrong_bytes_of_the_right_size_are_refused(server, cache, artifact, debris, fetch_in_child):
    server.faults = ["corrupt"]
    run = fetch_in_child(artifact(on_hub()))
    assert "ChecksumError" in run.stderr and artifact().sha256 in run.stderr and debris() == []


@pytest.mark.parametrize("fault", [404, 503, "truncate"])
def test_after_a_hub_that_fails_the_next_source_is_tried(server, cache, artifact, debris, fetch_in_child, fault):
    server.faults = [fault] * 99
    run = fetch_in_child(artifact(on_hub(), Source(url=f"{server.url}/good")))
    assert run.returncode == 0, run.stderr
    assert server.requests[-1][0] == "/good" and debris() == ["w.bin"]


def test_a_dead_hub_is_named_in_the_error(server, cache, artifact, fetch_in_child):
    server.faults = [404] * 99
    run = fetch_in_child(artifact(on_hub()))
    assert "DownloadError: model.tag could not be fetched" in run.stderr
    assert f"hub org/name/w.bin@{REVISION}: " in run.stderr
