"""Run full-size MMDetection for dev/parity/compare.py, in the peer environment; save the results.

usage: run_reference.py parameters OUT
       run_reference.py {predict,predict+train,steps} OUT MODEL
"""

import sys
from typing import Any

import mmdet_peer
import mmdet_runs
import numpy as np
import torch
from comparison import compare, drop_without_area
from mmdet_optimizer import build_optimizer
from parity_cases import FULL_SEED, Batch, full_batch, steps_batches
from parity_inputs import Array, trained_looking

DTYPES = (torch.float32, torch.float64)
NUDGE_SEEDS = (1, 2, 3)  # of the further float32 runs of the optimizer steps


def main(argv: list[str]) -> None:
    what, out = argv[:2]
    if what == "parameters":
        result = parameters()
    elif what == "steps":
        result = steps(argv[2])
    else:
        result = runs(argv[2], what.split("+"))
    torch.save(result, out)


def parameters() -> dict[str, dict]:
    """{model: {"shapes": {name: shape}, "trained": [names]}} of all five."""
    models = {}
    for name in mmdet_peer.CONFIGS:
        with torch.device("meta"):
            model = mmdet_peer.build(mmdet_peer.load_config(name))
        trained = [key for key, value in model.named_parameters() if value.requires_grad]
        models[name] = {"shapes": mmdet_peer.shapes_of(model), "trained": trained}
    return models


def runs(name: str, kinds: list[str]) -> dict:
    """Records of the wanted runs, in float32 and float64, and how far these two are apart.

    Detections without area in the image, which this project drops, are dropped here.
    """
    model = mmdet_peer.build(mmdet_peer.load_config(name))
    state = trained_looking(mmdet_peer.shapes_of(model), FULL_SEED)
    batch = full_batch(_num_classes(model))
    result: dict[str, Any] = {"shapes": mmdet_peer.shapes_of(model)}
    for kind in kinds:
        records = [_run(kind, model, state, batch, dtype) for dtype in DTYPES]
        noise = compare(*records, by_stage=True)
        figures = {quantity: row.figures() for quantity, row in noise.items()}
        result[kind] = {"records": dict(zip(map(str, DTYPES), records)), "noise": figures}
    return result


def _run(kind: str, model: torch.nn.Module, state: dict, batch: Batch, dtype: torch.dtype) -> dict:
    mmdet_runs.set_weights(model, state, dtype)
    if kind == "predict":
        record = mmdet_runs.prediction_run(model, batch.images, batch.output_sizes, dtype)
        return drop_without_area(record, batch.output_sizes)
    record = mmdet_runs.training_run(model, batch.images, batch.objects, dtype)
    return {key: value.clone() for key, value in record.items()}


def steps(name: str) -> dict:
    """Losses of ten optimizer steps, in float32 and float64, and of what float32 leaves open.

    Returns:
        "losses" by type, one dict of losses for each step; "nudged": a list of such lists in
        float32, each from weights that differ from the others' in the last bit alone.
    """
    cfg = mmdet_peer.load_config(name)
    model = mmdet_peer.build(cfg)
    shapes = mmdet_peer.shapes_of(model)
    state = trained_looking(shapes, FULL_SEED)
    losses = {str(dtype): _take_steps(cfg, model, state, dtype) for dtype in DTYPES}
    nudged = [_take_steps(cfg, model, _nudged(state, seed), torch.float32) for seed in NUDGE_SEEDS]
    return {"shapes": shapes, "losses": losses, "nudged": nudged}


def _nudged(state: dict[str, Array], seed: int) -> dict[str, Array]:
    """Every weight moved to a neighbouring float32, up or down by chance."""
    rng = np.random.RandomState(seed)
    ends = np.float32([-np.inf, np.inf])
    return {
        name: (
            np.nextafter(value, ends[rng.randint(0, 2, value.shape)])
            if value.dtype == np.float32
            else value
        )
        for name, value in state.items()
    }


def _take_steps(
    cfg: Any, model: torch.nn.Module, state: dict[str, Array], dtype: torch.dtype
) -> list[dict]:
    mmdet_runs.set_weights(model, state, dtype)
    model.zero_grad()
    optimizer = build_optimizer(cfg, model)
    losses = []
    for batch in steps_batches(_num_classes(model)):
        record = mmdet_runs.training_run(model, batch.images, batch.objects, dtype)
        optimizer.step()
        losses.append({key: value for key, value in record.items() if key.startswith("loss/")})
    return losses


def _num_classes(model: torch.nn.Module) -> int:
    return model.roi_head.bbox_head[0].num_classes


if __name__ == "__main__":
    main(sys.argv[1:])
