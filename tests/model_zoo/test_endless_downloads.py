"""Servers that give too much, too little, or lead elsewhere: one line, and nothing is left."""

import socket
import threading
import time

import pytest
import torch
from detectron2.utils.file_io import PathManager

from queryinst.checkpoint import QueryInstCheckpointer, files
from queryinst.model_zoo import downloads, load_models


@pytest.fixture
def entry(zoo, monkeypatch):
    for name, value in (("_TIMEOUT", 5), ("_WINDOW", 0.3), ("_MIN_RATE", 2000)):
        monkeypatch.setattr(downloads, name, value)
    return zoo.publish(b"x" * 1000, approximate_size_mb=1)


def refused(zoo, entry, match):
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=match) as caught:
        PathManager.get_local_path(
            f"queryinst://mmdet/{entry['name']}/{entry['sha256_prefix']}.pth"
        )
    text = str(caught.value)
    assert "\n" not in text and entry["url"] in text
    assert zoo.files() == [] and time.monotonic() - start < 5


def answer(server, function):
    server.answers = {name: function for name in server.files}


def begin(handler, *headers):
    handler.send_response(200)
    for header in headers:
        handler.send_header(*header)
    handler.end_headers()


def drip(server, write):
    """Write a byte every 20 ms until the test ends or the client has gone."""
    try:
        while not server.go_on.wait(0.02):
            write(b"x")
    except OSError:
        pass


@pytest.mark.parametrize("length", [None, 100])
def test_receive_ends_a_download_that_goes_on(zoo, server, entry, length, monkeypatch):
    """approximate_size_mb is 1: up to 2.25 MB may come. What follows a stated length is unread."""
    monkeypatch.setattr(downloads, "_CHUNK", 100_000)  # at most so much more than may come is read

    def endless(handler):
        begin(handler, *([("Content-Length", str(length))] if length else []))
        try:
            for _ in range(100):
                handler.wfile.write(b"x" * 100_000)
        except OSError:
            pass

    answer(server, endless)
    if length:
        with pytest.raises(ValueError, match="which should begin with .* it was removed"):
            PathManager.get_local_path(
                f"queryinst://mmdet/{entry['name']}/{entry['sha256_prefix']}.pth"
            )
        assert zoo.files() == []
    else:
        refused(zoo, entry, r"it gives 2\.\d+ MB or more, and approximate_size_mb .* 2.25 MB")


def test_receive_refuses_a_length_beyond_the_stated_size(zoo, server, entry):
    answer(server, lambda handler: begin(handler, ("Content-Length", "3000000000")))
    refused(zoo, entry, "it promises 3000 MB or more, and approximate_size_mb .* allows 2.25 MB")


@pytest.mark.parametrize("part", ["body", "head", "status", "chunk"])
def test_receive_ends_a_download_that_drips(zoo, server, entry, part):
    def dripping(handler):
        if part == "body":
            begin(handler, ("Content-Length", "1000000"))
        elif part == "chunk":
            begin(handler, ("Transfer-Encoding", "chunked"))
        elif part == "head":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        drip(server, handler.wfile.write)

    answer(server, dripping)
    refused(zoo, entry, "timed out: .* bytes in 0.3 s, at least 2000 a second are needed")
    server.go_on.set()


def test_receive_accepts_a_slow_download(zoo, server, entry, make_published):
    """Slower than the window as a whole, with enough in each."""
    body = make_published(seed=1)
    entry = zoo.publish(body)
    pieces = [
        body[start : start + len(body) // 10] for start in range(0, len(body), len(body) // 10)
    ]

    def slow(handler):
        begin(handler, ("Content-Length", str(len(body))))
        for piece in pieces:
            handler.wfile.write(piece)
            time.sleep(0.05)

    answer(server, slow)
    PathManager.get_local_path(f"queryinst://mmdet/{entry['name']}/{entry['sha256_prefix']}.pth")
    assert len(zoo.files()) == 2


def redirecting(target):
    def redirect(handler):
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return redirect


@pytest.mark.parametrize(
    "target, match",
    [
        ("file:///etc/passwd", "leads to 'file:///etc/passwd', which is not http|not allowed"),
        ("ftp://127.0.0.1/w.pth", "leads to 'ftp://127.0.0.1/w.pth', which is not http"),
        ("data:text/plain,x", "not allowed|is not http"),
        ("//[", "could not be downloaded"),
        ("http://127.0.0.1:99999999/", "could not be downloaded"),
    ],
)
def test_receive_follows_no_address_of_another_kind(zoo, server, entry, target, match):
    answer(server, redirecting(target))
    refused(zoo, entry, match)


def test_receive_follows_a_few_redirections(zoo, server, entry):
    answer(server, lambda handler: redirecting(f"{server.url}{handler.path}")(handler))
    refused(zoo, entry, "HTTP 302 .*infinite loop")
    assert 2 <= len(server.requests) <= 11


def test_receive_never_goes_from_https_to_http():
    request = downloads.urllib.request.Request("https://there/w.pth")
    with pytest.raises(ConnectionError, match="leads to 'http://there/w.pth', which is not https"):
        downloads.SafeRedirects().redirect_request(
            request, None, 302, "Found", {}, "http://there/w.pth"
        )


def test_receive_leaves_no_thread_after_a_download(zoo, server, entry, make_published):
    entry = zoo.publish(make_published(seed=1))
    PathManager.get_local_path(f"queryinst://mmdet/{entry['name']}/{entry['sha256_prefix']}.pth")
    assert "download" not in {thread.name for thread in threading.enumerate()}


def test_fetch_gives_up_a_server_that_goes_silent(zoo, server, monkeypatch):
    """Of any address, not only those of models.yaml."""
    monkeypatch.setattr(files, "_TIMEOUT", 0.2)
    server.files["w.pth"] = b"x" * 1000
    server.stalled.add("w.pth")
    with pytest.raises(ConnectionError, match="cannot be downloaded .*timed out"):
        QueryInstCheckpointer(torch.nn.Linear(2, 2)).load(f"{server.url}/w.pth")
    assert zoo.files() == [] and socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    "field, value",
    [
        *(
            ("approximate_size_mb", value)
            for value in (None, "691", -1, 0, 1.5, True, [7], 1 << 90)
        ),
        *(("parameters", value) for value in ("many", float("inf"))),
        *((field, value) for field in ("licence", "attribution") for value in (None, 3, ["x"])),
    ],
)
def test_load_models_refuses_values_of_another_type(zoo, entry, field, value):
    zoo.write({**entry, field: value})
    with pytest.raises(ValueError, match=f"models.yaml, entry tiny, {field} is ") as error:
        load_models()
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
