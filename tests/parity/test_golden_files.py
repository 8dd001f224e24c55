"""The goldens are small, complete, and of the weights and images that this side makes as well."""

import goldens
import pytest
import torch
from golden_files import load_record, save_record
from golden_settings import SAMPLES, inputs_digest, long_batches, weights_digest

MAX_BYTES = 3_000_000


def test_goldens_are_complete_and_small():
    files = list(goldens.FOLDER.iterdir())
    records = {path.stem for path in files if path.suffix == ".npz"}
    assert records == set(SAMPLES)
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES


def test_goldens_tell_their_versions():
    versions = goldens.load_json("versions")
    assert versions["mmdet"] == "3.3.0"
    assert versions.keys() >= {"mmengine", "mmcv", "torch", "torchvision", "numpy", "date"}


def test_goldens_are_of_these_weights_and_images(weights, batches):
    """Where this fails nothing in this folder says anything of the model: make the goldens anew."""
    digests = goldens.load_json("digests")
    assert weights_digest(weights) == digests["weights"], "numpy draws other weights"
    inputs = inputs_digest([*batches.values(), *long_batches()])
    assert inputs == digests["inputs"], "numpy draws other images"


def test_weights_digest_sees_one_bit(weights):
    name = next(reversed(weights))
    changed = weights | {name: weights[name].copy()}
    changed[name].flat[0] += 1e-7
    assert weights_digest(changed) != weights_digest(weights)


def test_save_record_is_read_by_load_record(tmp_path):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 50, generator=generator, dtype=torch.float64)
    mask = torch.rand(5, 7, 3, generator=generator) < 0.5
    record = {"a/b": values, "mask": mask, "idx": torch.arange(9), "none": torch.zeros(0, 4)}
    save_record(tmp_path / "record.npz", record, 20)
    actual = load_record(tmp_path / "record.npz")
    assert actual["mask"].equal(mask) and actual["idx"].equal(record["idx"])
    assert actual["none"].tolist() == [0]  # its norm
    assert len(actual["a/b"]) == 21
    assert actual["a/b"][0] == values[0, 0] and actual["a/b"][19] == values[2, 49]
    assert actual["a/b"][20] == pytest.approx(values.square().sum().sqrt().item())
