"""Run full-size MMDetection for dev/parity.py and save what it computes. In the peer environment.

usage: run_reference.py parameters OUT
       run_reference.py {predict,predict+train,steps} OUT MODEL
"""

import sys
from typing import Any

import mmdet_peer
import mmdet_runs
import torch
from comparison import compare
from mmdet_optimizer import build_optimizer
from parity_cases import FULL_SEED, Batch, full_batch, steps_batches
from parity_inputs import trained_looking

DTYPES = (torch.float32, torch.float64)


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
    found = {}
    for name in mmdet_peer.CONFIGS:
        with torch.device("meta"):
            model = mmdet_peer.build(mmdet_peer.load_config(name))
        trained = [key for key, value in model.named_parameters() if value.requires_grad]
        found[name] = {"shapes": mmdet_peer.shapes_of(model), "trained": trained}
    return found


def runs(name: str, kinds: list[str]) -> dict:
    """Records of the wanted runs, in float32 and float64, and how far these two are apart."""
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
        return mmdet_runs.prediction_run(model, batch.images, batch.output_sizes, dtype)
    record = mmdet_runs.training_run(model, batch.images, batch.objects, dtype)
    return {key: value.clone() for key, value in record.items()}


def steps(name: str) -> dict:
    """Losses of ten optimizer steps, in float32 and float64."""
    cfg = mmdet_peer.load_config(name)
    model = mmdet_peer.build(cfg)
    shapes = mmdet_peer.shapes_of(model)
    state = trained_looking(shapes, FULL_SEED)
    losses = {}
    for dtype in DTYPES:
        mmdet_runs.set_weights(model, state, dtype)
        losses[str(dtype)] = _take_steps(cfg, model, dtype)
        model.zero_grad()
    return {"shapes": shapes, "losses": losses}


def _take_steps(cfg: Any, model: torch.nn.Module, dtype: torch.dtype) -> list[dict]:
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
