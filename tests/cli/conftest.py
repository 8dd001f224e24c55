"""A checkpoint of a tiny model, pictures, and the command itself."""

import numpy as np
import pytest
from PIL import Image

from queryinst_cli import main

NAMES = ["circle", "square", "star"]


@pytest.fixture(scope="session")
def model_file(save_tiny_model, tmp_path_factory):
    names = {"thing_classes": NAMES, "dataset_id_map": {5: 0, 9: 2, 7: 1}}
    return str(save_tiny_model(tmp_path_factory.mktemp("checkpoint"), **names))


@pytest.fixture(scope="session")
def exported_file(model_file, tmp_path_factory):
    """That model as an ONNX file, by the command."""
    path = str(tmp_path_factory.mktemp("exported") / "model.onnx")
    assert main(["export", model_file, path]) == 0
    return path


@pytest.fixture
def picture():
    """Writes an image of noise, another for each seed; returns its path."""

    def write(path, seed=0, size=(64, 96)):
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return str(path)

    return write


@pytest.fixture
def queryinst_predict(model_file, capfd, monkeypatch, tmp_path):
    """Runs `queryinst predict` with the tiny model in the test's folder: (status, out, err)."""
    monkeypatch.chdir(tmp_path)

    def run(*words, model=model_file, score="0"):
        options = ["--model", model, "--device", "cpu", "--score", score, "--no-progress"]
        status = main(["predict", *map(str, words), *options])
        return status, *capfd.readouterr()

    return run
