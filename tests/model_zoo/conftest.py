"""A loopback server with files in MMDetection's layout, and a models.yaml that names them."""

import copy
import functools
import hashlib
import http.server
import io
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.modeling import build_model

from queryinst.checkpoint.mmdet import to_mmdet_state_dict
from queryinst.model_zoo import get_config, get_config_file
from queryinst.model_zoo.metadata import PACKAGED_MODELS_YAML

TINY = "quick_schedules/queryinst_R_50_FPN_instant_test.yaml"


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`, {name: bytes or Path}; counts the requests; breaks off if it is told to.

    Attributes:
        broken: names of which half arrives, though the head promises all.
        without_length: names whose head doesn't say how much will come.
        stalled: names of which half arrives until `go_on` is set.
        answers: {name: function of the handler that answers in the place of all this}.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.requests = {}, []
        self.broken, self.without_length, self.stalled = set(), set(), set()
        self.answers = {}
        self.go_on = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        pass  # clients that are killed on purpose


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.lstrip("/")
        self.server.requests.append(name)
        if name in self.server.answers:
            return self.server.answers[name](self)
        if name not in self.server.files:
            return self.send_error(404)
        body = self.server.files[name]
        body = body.read_bytes() if isinstance(body, Path) else body
        self.send_response(200)
        if name not in self.server.without_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        if name in self.server.broken:
            return None
        if name in self.server.stalled:
            self.server.go_on.wait(20)
        return self.wfile.write(body[len(body) // 2 :])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.go_on.set()
        running.shutdown()
        thread.join()


PACKAGED_ENTRY = yaml.safe_load(PACKAGED_MODELS_YAML.read_text())["models"][0]


@functools.cache
def _built(seed, overrides):
    cfg = get_config(TINY)
    cfg.merge_from_list([word for pair in overrides for word in pair])
    torch.manual_seed(0)
    model = build_model(cfg)
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.02 * torch.rand(tensor.shape, generator=generator) + 0.01)
    return model.eval()


@functools.cache
def _published(seed, overrides):
    state = to_mmdet_state_dict(_built(seed, overrides).state_dict())
    buffer = io.BytesIO()
    torch.save({"meta": {"epoch": 12, "mmdet_version": "2.16.0"}, "state_dict": state}, buffer)
    return buffer.getvalue()


def _words(overrides):
    return tuple(sorted((key.replace("__", "."), value) for key, value in overrides.items()))


class Zoo:
    """Publishes files: puts them on the server, and an entry into the models.yaml that is read.

    Attributes:
        cache: $FVCORE_CACHE.
        yaml_path: the models.yaml.
    """

    def __init__(self, folder, server):
        self.folder, self.server = folder, server
        self.cache, self.yaml_path = folder / "cache", folder / "zoo" / "models.yaml"
        self.yaml_path.parent.mkdir()
        self.entries = []

    def write(self, *entries):
        """Let the models.yaml have these entries, plain dicts, alone."""
        self.entries = list(entries)
        self.yaml_path.write_text(yaml.safe_dump({"models": self.entries}, sort_keys=False))

    def publish(self, file, name="tiny", config=TINY, **fields):
        """Put `file`, bytes or a Path, on the server, and an entry into models.yaml; returns it.

        The digest is the file's own if `fields` doesn't say another.
        """
        body = file.read_bytes() if isinstance(file, Path) else file
        prefix = fields.pop("sha256_prefix", hashlib.sha256(body).hexdigest()[:8])
        file_name = f"{name}_20210907_084916-{prefix}.pth"
        self.server.files[f"{name}/{file_name}"] = file
        own = {"name": name, "config": config, "sha256_prefix": prefix}
        own["url"] = f"{self.server.url}/{name}/{file_name}"
        entry = {**PACKAGED_ENTRY, **own, "approximate_size_mb": 7, **fields}
        self.write(*(e for e in self.entries if e["name"] != name), entry)
        return entry

    def write_config(self, name, **queryinst_or_model):
        """A configuration beside models.yaml: the tiny one, with sections of MODEL replaced."""
        content = {"_BASE_": get_config_file(TINY), "MODEL": queryinst_or_model}
        (self.yaml_path.parent / name).write_text(yaml.safe_dump(content))
        return name

    def files(self):
        """What is in the cache, by name, without locks."""
        paths = [path for path in self.cache.rglob("*") if path.is_file()]
        return sorted(path.name for path in paths if path.suffix != ".lock")


@pytest.fixture
def zoo(tmp_path, server, monkeypatch):
    made = Zoo(tmp_path, server)
    monkeypatch.setenv("FVCORE_CACHE", str(made.cache))
    monkeypatch.setenv("QUERYINST_MODELS_YAML", str(made.yaml_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return made


@pytest.fixture
def make_model():
    """Tiny models in evaluation mode; `seed` changes every value; KEY__SUB=value overrides."""
    return lambda seed=0, **overrides: copy.deepcopy(_built(seed, _words(overrides)))


@pytest.fixture
def make_published():
    """The bytes of the file of such a model, as MMDetection publishes it."""
    return lambda seed=0, **overrides: _published(seed, _words(overrides))


@pytest.fixture
def wait_until():
    def wait(condition, seconds=20):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.01)

    return wait
