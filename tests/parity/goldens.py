"""Reading the goldens, and holding records of this project's model against them."""

import functools
import json
from pathlib import Path
from typing import Any

import torch
from comparison import Record, in_our_names
from golden_files import load_record, sample_all
from golden_settings import SAMPLES

from queryinst.checkpoint import convert_mmdet_state_dict

FOLDER = Path(__file__).resolve().parent / "goldens"
TOLERANCE = 1e-9  # of float64, relative to the largest element of a tensor
# Below this a tensor counts as zero: losses and gradients are of the order of one.
FLOOR = 1e-6


@functools.cache
def load(name: str) -> Record:
    """A record of MMDetection's, parameters under this project's names."""
    return in_our_names(load_record(FOLDER / f"{name}.npz"), convert_mmdet_state_dict)


def load_json(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def our_names(names: list[str]) -> list[str]:
    """Of MMDetection's names, in their order."""
    return list(convert_mmdet_state_dict({name: torch.empty(0) for name in names}))


def sampled(record: Record, name: str) -> Record:
    """A record of this project's as the golden of that name holds its own."""
    return sample_all(record, SAMPLES[name])


def check(ours: Record, theirs: Record, tolerance: float = TOLERANCE) -> None:
    """Every element of every tensor; integers and bools exactly.

    Args:
        ours, theirs: both sampled, so that a norm stands last in float tensors.

    Raises:
        AssertionError: with all keys that differ, and by how much.
    """
    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())[:8]
    wrong = []
    for key, reference in theirs.items():
        value = ours[key]
        if value.shape != reference.shape or value.dtype != reference.dtype:
            wrong.append(f"{key}: {value.dtype} {value.shape}, not {reference.shape}")
        elif not reference.is_floating_point():
            if num := int((value != reference).sum()):
                wrong.append(f"{key}: {num} of {reference.numel()} differ")
        elif not (excess := _excess(value, reference)) <= tolerance:
            wrong.append(f"{key}: {excess:.1e} of its scale")
    assert not wrong, "\n".join([f"{len(wrong)} of {len(theirs)} tensors differ", *wrong[:20]])


def _excess(value: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest difference over the largest element, or that of the norms over the norm."""
    scales = torch.full_like(reference, max([FLOOR, *reference[:-1].abs().tolist()]))
    scales[-1] = reference[-1].clamp(min=FLOOR)
    return float(((value - reference).abs() / scales).max())  # NaN if there is any


def weights_of(model: torch.nn.Module) -> Record:
    """What are parameters in MMDetection: here the frozen batch norms' are buffers."""
    return {
        f"parameter/{name}": value.clone()
        for name, value in model.state_dict().items()
        if "running_" not in name and "num_batches" not in name
    }
