"""The narrow model with the weights that MMDetection had when the goldens were made."""

import goldens
import our_runs
import pytest
import torch
from golden_settings import WEIGHTS_SEED
from parity_cases import NARROW, narrow_batches
from parity_inputs import trained_looking

DTYPE = torch.float64


@pytest.fixture(scope="session")
def batches():
    return narrow_batches()


@pytest.fixture(scope="session")
def weights():
    """In MMDetection's names."""
    shapes = {name: tuple(shape) for name, shape in goldens.load_json("narrow_shapes").items()}
    return trained_looking(shapes, WEIGHTS_SEED)


@pytest.fixture(scope="session", params=[("auto",), ()], ids=["auto", "plain"])
def built(request, weights):
    """With the speed-ups of this processor, and the plain model."""
    cfg = our_runs.narrow_cfg(**NARROW)
    cfg.MODEL.QUERYINST.SPEEDUPS = request.param
    return our_runs.build(cfg, weights, DTYPE)


@pytest.fixture
def model(built, weights):
    """Of float64, with the weights untouched by other tests."""
    our_runs.set_weights(built, weights, DTYPE)
    built.max_detections = NARROW["queries"]
    return built


@pytest.fixture(scope="session")
def training_records(built, weights, batches):
    """A function: name of a batch -> its record, computed once."""
    records: dict[str, dict] = {}

    def run(name: str) -> dict:
        if name not in records:
            our_runs.set_weights(built, weights, DTYPE)
            batch = batches[name]
            record = our_runs.training_run(built, batch.images, batch.objects, DTYPE)
            records[name] = {key: value.clone() for key, value in record.items()}
        return records[name]

    return run
