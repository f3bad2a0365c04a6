"""Downloads from a server that does everything wrong."""

import hashlib
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest

from blockzoo.checkpoints import Artifact, ChecksumError, DownloadError, Source, cache_path, fetch, is_cached
from blockzoo.checkpoints.transfer import _get, _Version

BODY = bytes(range(256)) * 4000


def partial_file(item: Artifact) -> Path:
    return cache_path(item).with_name("w.bin.part")


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


def test_a_killed_process_leaves_a_transfer_that_another_resumes(server, cache, artifact, child_code):
    server.faults = ["slow"]
    child = subprocess.Popen([sys.executable, "-c", child_code(artifact())])
    part = partial_file(artifact())
    deadline = time.monotonic() + 30
    while (not part.exists() or part.stat().st_size < 100_000) and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    child.kill()
    child.wait()
    have = part.stat().st_size
    assert 0 < have < len(BODY)
    assert fetch(artifact()).read_bytes() == BODY
    assert server.requests[-1][1] == f"bytes={have}-"


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
    for fault in (None, "whole-no-length"):
        server.faults = [fault]
        with pytest.raises(
            ChecksumError, match=f"{len(BODY)} bytes, expected|larger than the expected {len(BODY) - 1}"
        ):
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


def test_proxies_of_the_environment_are_used(server, cache, artifact, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", server.url)
    fetch(artifact(Source(url="http://no-such-host.invalid/w.bin")))
    assert server.requests[0][0] == "http://no-such-host.invalid/w.bin"


def test_a_dead_server_is_an_error_that_lists_the_sources(server, cache, artifact):
    item = artifact(Source(url="http://127.0.0.1:9/a.bin"), Source(url="http://127.0.0.1:9/b.bin"))
    with pytest.raises(DownloadError, match=r"a\.bin: gave up after 5 tries: ConnectError[\s\S]*b\.bin: gave up"):
        fetch(item)


def test_cuts_do_not_add_up_while_a_transfer_gets_on(server, cache, artifact):
    server.faults = ["truncate"] * 9
    assert fetch(artifact()).read_bytes() == BODY
    assert len(server.requests) == 10


def test_a_server_that_answers_with_another_range_is_asked_for_the_whole(server, cache, artifact):
    server.faults = ["truncate", "wrong-range"]
    assert fetch(artifact()).read_bytes() == BODY
    assert [bool(wanted) for _, wanted in server.requests] == [False, True, False]


def test_wrong_bytes_left_by_an_earlier_transfer_do_not_discredit_a_source(server, cache, artifact, debris):
    part = partial_file(artifact())
    for left in (b"x" * 1000, b"x" * len(BODY)):
        shutil.rmtree(cache, ignore_errors=True)
        part.parent.mkdir(parents=True)
        part.write_bytes(left)
        assert fetch(artifact()).read_bytes() == BODY and debris() == ["w.bin"]


def test_a_complete_partial_file_needs_no_request(server, cache, artifact):
    partial_file(artifact()).parent.mkdir(parents=True)
    partial_file(artifact()).write_bytes(BODY)
    assert fetch(artifact()).read_bytes() == BODY and server.requests == []


@pytest.mark.parametrize(("header", "low", "high"), [("3", 3, 3), ("99999", 60, 60), ("soon", 0, 1)])
def test_the_pause_a_server_asks_for_is_kept_within_bounds(server, cache, artifact, header, low, high):
    server.retry_after, server.faults = header, [429]
    fetch(artifact())
    assert len(server.pauses) == 1 and low <= server.pauses[0] <= high


def test_a_pause_until_a_date_is_kept(server, cache, artifact):
    server.retry_after, server.faults = formatdate(time.time() + 40, usegmt=True), [503]
    fetch(artifact())
    assert len(server.pauses) == 1 and 20 < server.pauses[0] <= 40


def test_a_file_of_another_size_is_not_asked_for_again(server, cache, artifact, debris):
    server.body = BODY[:1000]
    with pytest.raises(ChecksumError, match=f"has 1000 bytes, expected {len(BODY)}"):
        fetch(artifact())
    assert len(server.requests) == 1 and debris() == []


def test_a_web_page_is_known_by_its_text_too(server, cache, artifact, debris):
    server.body, server.faults = b"\n<!DOCTYPE html><p>Sign in", ["whole-no-length"]
    with pytest.raises(DownloadError, match="web page"):
        fetch(artifact())
    assert len(server.requests) == 1 and debris() == []


@pytest.mark.parametrize("address", ["http://[", "http://a b/", "/srv/w.bin", "ftp://example.org/w.bin"])
def test_after_an_unusable_address_the_next_source_is_tried(server, cache, artifact, address):
    assert fetch(artifact(Source(url=address), Source(url=f"{server.url}/w.bin"))).read_bytes() == BODY


def test_an_endless_redirect_is_given_up(server, cache, artifact):
    server.faults = ["redirect"] * 99
    assert fetch(artifact(Source(url=f"{server.url}/w.bin"), Source(url=f"{server.url}/good"))).read_bytes() == BODY


@pytest.mark.parametrize("value", ["soon", "0", "-1"])
def test_an_impossible_timeout_is_refused(server, cache, artifact, monkeypatch, value):
    monkeypatch.setenv("BLOCKZOO_TIMEOUT", value)
    with pytest.raises(ValueError, match=f"BLOCKZOO_TIMEOUT is '{value}', expected a positive number"):
        fetch(artifact())


@pytest.mark.parametrize("digits", [19, 5000])
def test_a_length_of_thousands_of_digits_is_another_range(server, cache, artifact, monkeypatch, digits):
    server.faults = ["truncate"]
    handler = server.RequestHandlerClass
    send = handler.send_header

    def lying(self, name, value):
        send(self, name, f"{value.partition('/')[0]}/{'9' * digits}" if name == "Content-Range" else value)

    with monkeypatch.context() as patch:
        patch.setattr(handler, "send_header", lying)
        assert fetch(artifact()).read_bytes() == BODY
    assert [wanted is None for _, wanted in server.requests] == [True, False, True]


def test_an_encrypted_address_is_not_left_for_a_plain_one(tmp_path, artifact, server):
    def answer(request):
        if request.url.scheme == "https":
            return httpx.Response(302, headers={"Location": "http://elsewhere.example/w.bin"})
        return httpx.Response(200, content=BODY)

    with httpx.Client(transport=httpx.MockTransport(answer), follow_redirects=True) as client:
        with pytest.raises(DownloadError, match="passes on to http://elsewhere.example/w.bin, which is not encrypted"):
            _get(client, "https://example.org/w.bin", artifact(), tmp_path / "w.part", _Version())
    assert not (tmp_path / "w.part").exists()


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/w.bin", "data:,x"])
def test_a_redirect_to_another_kind_of_address_is_not_followed(server, cache, artifact, debris, monkeypatch, target):
    handler = server.RequestHandlerClass
    send = handler.send_header
    monkeypatch.setattr(
        handler, "send_header", lambda self, name, value: send(self, name, target if name == "Location" else value)
    )
    server.faults = ["redirect"]
    with pytest.raises(DownloadError, match=r"(UnsupportedProtocol|InvalidURL|HTTP 302|protocol)"):
        fetch(artifact())
    assert debris() == []
