"""docs/quickstart.ipynb runs from its first cell to its last, with a tiny model."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from queryinst import load
from queryinst.build import build_queryinst
from queryinst.checkpoint import QueryInstCheckpointer, build_meta
from queryinst.testing import spread_queries, tiny_cfg

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "quickstart.ipynb"
# Few layers, for a short export.
SMALL = {
    "MODEL__RESNETS__DEPTH": 18,
    "MODEL__RESNETS__RES2_OUT_CHANNELS": 64,
    "MODEL__ROI_MASK_HEAD__NUM_CONV": 1,
    "INPUT__MAX_SIZE_TEST": 96,
}


@pytest.fixture
def folder(tmp_path):
    """The files that `make demo` would make, of a tiny model; and docs/."""
    torch.manual_seed(0)
    cfg = tiny_cfg(**SMALL)
    model = build_queryinst(cfg).eval()
    spread_queries(model)
    meta = {**build_meta(cfg, None), "thing_classes": ["ellipse", "triangle", "star"]}
    QueryInstCheckpointer(model, str(tmp_path / "output/demo"), meta=meta).save("model_final")
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    (tmp_path / "datasets/shapes/val").mkdir(parents=True)
    Image.fromarray(noise).save(tmp_path / "datasets/shapes/val/000000.png")
    (tmp_path / "docs").mkdir()
    return tmp_path


def outputs_of(notebook) -> str:
    """What the cells print, and the text of what they show."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "\n".join(x.get("text", "") or x["data"]["text/plain"] for x in outputs)


def test_quickstart_runs(folder):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(folder / "docs")}}
    nbclient.NotebookClient(notebook, timeout=120, resources=resources).execute()
    result = load(folder / "output/demo/model_final.pth")(folder / "datasets/shapes/val/000000.png")
    said = outputs_of(notebook)
    assert (
        repr(result) in said
        and "'category_id': " in said
        and "| mask IoU" in re.sub(" +", " ", said)
    )
    scores, boxes = re.findall(r"largest difference: scores (\S+), boxes (\S+) pixels", said)[0]
    assert float(scores) < 1e-3 and float(boxes) < 0.1
    pictures = [x for cell in notebook.cells for x in cell.get("outputs", ()) if "data" in x]
    assert any("image/png" in x["data"] for x in pictures)
    assert said.rstrip().endswith(" 1.0")


def test_quickstart_is_committed_without_outputs():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in cells)
