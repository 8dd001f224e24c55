"""The five published models at full size, from files that MMDetection itself made.

Skipped unless QUERYINST_PUBLISHED_FILES names a folder with, for each entry of models.yaml that has
an address, one file <name>*.pth in the published layout, {"meta": ..., "state_dict": ...}. Random
weights will do: the digests are taken from the files.
"""

import os
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager

from queryinst import model_zoo
from queryinst.checkpoint.mmdet import to_mmdet_state_dict
from queryinst.model_zoo.metadata import PACKAGED_MODELS_YAML

FOLDER = os.environ.get("QUERYINST_PUBLISHED_FILES", "")
ENTRIES = [entry for entry in model_zoo.load_models(PACKAGED_MODELS_YAML) if entry.url]

pytestmark = pytest.mark.skipif(not FOLDER, reason="needs QUERYINST_PUBLISHED_FILES")


@pytest.fixture
def published():
    """The file of an entry."""

    def find(entry):
        (path,) = Path(FOLDER).glob(f"{entry.name}*.pth")
        return path

    return find


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_converted_file_has_every_tensor_and_nothing_else(zoo, server, published, entry):
    path = published(entry)
    zoo.publish(path, name=entry.name, config=entry.config)
    cfg = model_zoo.get_config(entry.config, trained=True)
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    rest = DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    assert rest["meta"]["thing_classes"][:2] == ["person", "bicycle"]
    theirs = torch.load(path, mmap=True)["state_dict"]
    ours = to_mmdet_state_dict(model.state_dict())
    lacking = {name for name in ours.keys() - theirs.keys() if "num_batches_tracked" not in name}
    assert (lacking, theirs.keys() - ours.keys()) == (set(), set())
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert abs(path.stat().st_size / 1e6 - entry.approximate_size_mb) < 10
    assert len(server.requests) == 1


def test_converted_file_of_another_model_is_refused(zoo, published):
    small, large = ENTRIES[0], next(entry for entry in ENTRIES if entry.recipe.queries == 300)
    zoo.publish(published(large), name=small.name, config=small.config)
    with pytest.raises(ValueError, match="NUM_QUERIES is 100, the file has 300"):
        PathManager.get_local_path(model_zoo.get_checkpoint_url(small.config))
