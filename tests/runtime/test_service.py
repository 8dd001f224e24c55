"""The example service over HTTP, and its Dockerfile as far as that goes without Docker."""

import http.client
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

from queryinst_runtime import Session
from queryinst_runtime.masks import decode_rle

pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")

ROOT = Path(__file__).resolve().parents[2]
SERVICE = ROOT / "docs/examples/service"


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"  # Pillow runs Ghostscript on it


def png(height: int, width: int, level: int, **options) -> bytes:
    file = io.BytesIO()
    pixels = np.full((height, width, 3), level, np.uint8)
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


@pytest.fixture
def port(make_file):
    """Of a service that runs in a thread."""
    from queryinst_runtime.service import make_app

    app = make_app(Session(make_file()), max_bytes=20_000, max_pixels=10_000)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(timeout=30)
    listener.close()
    assert not thread.is_alive()


def request(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_service_answers_concurrent_requests_each_with_its_own_image(port, make_file):
    session = Session(make_file())
    widths = list(range(40, 80))

    def post(width):
        return request(port, "POST", "/predict?score=0.3", png(40, width, width))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, widths))
    for width, (status, answer) in zip(widths, answers, strict=True):
        expected = session(np.full((40, width, 3), width, np.uint8), score=0.3)
        assert status == 200 and (answer["height"], answer["width"]) == (40, width)
        assert len(answer["objects"]) == len(expected) == 2
        for index, found in enumerate(answer["objects"]):
            assert found["name"] == expected.names[index]
            assert found["class"] == expected.classes[index]
            assert found["score"] == pytest.approx(expected.scores[index], abs=1e-5)
            assert found["box"] == pytest.approx(expected.boxes[index].tolist(), abs=1e-4)
            assert np.array_equal(decode_rle(found["rle"]), expected.mask(index))
    status, answer = request(port, "POST", "/predict?score=1", png(40, 40, 0))
    assert status == 200 and len(answer["objects"]) <= 1


def test_service_tells_its_health(port):
    status, answer = request(port, "GET", "/health")
    assert status == 200
    assert answer == {"status": "ok", "model": "cats.pth", "digest": "", "classes": ["cat", "dog"]}


def test_service_turns_photographs_upright(port):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    status, answer = request(port, "POST", "/predict", png(30, 50, 0, exif=exif))
    assert status == 200 and (answer["height"], answer["width"]) == (50, 30)


def test_service_takes_the_high_byte_of_16_bits(port, make_file):
    gray = np.full((30, 50), 90, np.uint8)
    file = io.BytesIO()
    Image.fromarray(gray.astype(np.uint16) * 256 + 255).save(file, "PNG")
    status, answer = request(port, "POST", "/predict?score=0.3", file.getvalue())
    expected = Session(make_file())(gray, score=0.3)
    assert status == 200 and len(answer["objects"]) == len(expected) == 2
    scores = [found["score"] for found in answer["objects"]]
    assert scores == pytest.approx(expected.scores.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    "path, body, status, message",
    [
        ("/predict", b"no image", 400, "the body is no image"),
        ("/predict", b"", 400, "the body is no image"),
        ("/predict", EPS, 400, "the body is no image that Pillow can read"),
        ("/predict", png(40, 40, 0)[:60], 400, "the body is no image"),
        ("/predict", png(101, 100, 0), 413, "100 x 101 pixels, more than 10000"),
        ("/predict", bytes(20_001), 413, "more than 20000 bytes"),
        ("/predict?score=2", png(8, 8, 0), 422, "less than or equal to 1"),
    ],
    ids=["text", "empty", "program", "damaged", "pixels", "bytes", "score"],
)
def test_service_refuses_what_it_cannot_take_and_goes_on(port, path, body, status, message):
    found, answer = request(port, "POST", path, body)
    assert found == status and message in json.dumps(answer)
    assert request(port, "GET", "/health")[0] == 200


def test_service_does_not_read_on_when_a_body_without_length_is_too_long(port):
    chunk = b"%x\r\n" % 10_000 + bytes(10_000) + b"\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + 3 * chunk)  # and never an end
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of each line of the Dockerfile."""
    text = (SERVICE / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_dockerfile_copies_what_is_there_and_starts_what_it_copied():
    steps = instructions()
    assert steps[0][0] == "FROM" and [name for name, _ in steps].count("CMD") == 1
    copied = {}
    for name, arguments in steps:
        if name == "COPY":
            source, target = arguments.split()
            copied[target.removeprefix("./") or Path(source).name] = source
    assert copied.pop("model.onnx") == "${MODEL}" and ("ARG", "MODEL=model.onnx") in steps
    assert all((ROOT / source).exists() for source in copied.values()) and len(copied) == 2
    command = json.loads(dict(steps)["CMD"])
    module = command[command.index("-m") + 1]
    assert module.split(".")[0] in copied and importlib.util.find_spec(module) is not None
    port = command[command.index("--port") + 1]
    assert ("EXPOSE", port) in steps
    health = next(arguments for name, arguments in steps if name == "HEALTHCHECK")
    code = json.loads(health.removeprefix("CMD "))[2]
    compile(code, "health check", "exec")
    assert f":{port}/health" in code


def test_dockerfile_steps_lead_to_a_service_that_is_healthy(make_file, tmp_path):
    """Its copies, command and health check, in a folder of their own and with another port."""
    app = tmp_path / "app"
    app.mkdir()
    steps = instructions()
    for source, target in (arguments.split() for name, arguments in steps if name == "COPY"):
        path = make_file() if source == "${MODEL}" else ROOT / source
        if path.is_dir():
            shutil.copytree(path, app / target)
        else:
            target = app / target / path.name if target.endswith("/") else app / target
            shutil.copyfile(path, target)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    command = json.loads(dict(steps)["CMD"])[1:]
    command[command.index("--port") + 1] = port
    command[command.index("--host") + 1] = "127.0.0.1"
    health = next(arguments for name, arguments in steps if name == "HEALTHCHECK")
    check = json.loads(health.removeprefix("CMD "))[2].replace(":8000/", f":{port}/")
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *command], cwd=app, env=environment)
    try:
        deadline = time.monotonic() + 60
        is_healthy = False
        while not is_healthy and time.monotonic() < deadline and process.poll() is None:
            done = subprocess.run([sys.executable, "-c", check], capture_output=True)
            is_healthy = done.returncode == 0
        assert is_healthy
        assert request(int(port), "POST", "/predict", png(40, 60, 0))[0] == 200
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_dockerfile_installs_all_that_the_runtime_imports():
    lines = (SERVICE / "requirements.txt").read_text().split()
    names = {Requirement(line).name.lower() for line in lines}
    pip = next(x for name, x in instructions() if name == "RUN" and "pip" in x)
    assert shlex.split(pip)[-2:] == ["-r", "requirements.txt"]
    sources = (ROOT / "projects/QueryInst/queryinst_runtime").glob("*.py")
    pattern = r"^(?:import|from) ([a-zA-Z]\w*)"  # not those within functions, which are optional
    imported = {x for path in sources for x in re.findall(pattern, path.read_text(), re.MULTILINE)}
    foreign = {x for x in imported if importlib.util.find_spec(x).origin.find("site-packages") > 0}
    assert {"pillow" if x == "PIL" else x for x in foreign} | {"fastapi", "onnxruntime"} <= names
