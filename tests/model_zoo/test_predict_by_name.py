"""`queryinst predict` and `queryinst.load` with a published name, from a mirror on this machine."""

import numpy as np
import pytest
from PIL import Image

from queryinst import load
from queryinst_cli import main
from queryinst_cli.arguments import DEFAULT_MODEL


@pytest.fixture
def published(zoo, make_published, tmp_path, monkeypatch):
    """A tiny model under the default model's name, and an image in the working directory."""
    config = zoo.write_config(f"queryinst_{DEFAULT_MODEL}.yaml")
    zoo.publish(make_published(), config=config)
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save("photo.jpg")
    return zoo


def test_predict_downloads_the_default_model_once(published, capfd):
    for output in ("one", "two"):
        words = ["photo.jpg", "--device", "cpu", "--score", "0", "--output", output]
        assert main(["predict", *words]) == 0
    assert len(published.server.requests) == 1
    out, err = capfd.readouterr()
    assert err.count("Downloading") <= 1 and out.count("photo.jpg: ") == 2
    assert Image.open("one/photo.jpg").size == Image.open("two/photo.jpg").size


def test_load_takes_the_mirrors_names(published):
    assert len(load(DEFAULT_MODEL, device="cpu")("photo.jpg"))
    with pytest.raises(
        ValueError, match=f"no published model of this name; those are {DEFAULT_MODEL}"
    ):
        load("R_50_FPN_1x")


def test_predict_says_in_one_line_what_cannot_be_downloaded(published, capfd):
    published.server.files.clear()
    assert main(["predict", "photo.jpg", "--device", "cpu"]) == 1
    err = capfd.readouterr().err
    assert "HTTP 404" in err.splitlines()[-1] and "Traceback" not in err
