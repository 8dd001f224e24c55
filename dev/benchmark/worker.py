"""Measure one side in a process of its own, for compare_with_mmdet.py.

usage: python -m dev.benchmark.worker '{"side": ..., "task": ..., ...}' OUT

Side "mmdet" runs in the peer environment, the others in the project's. Default threads. Writes the
measurement and what was computed with torch.save.
"""

import importlib
import json
import sys

import torch

from .measuring import measure

# What runs each side: a module with build(run) -> step, and the step's outputs as tensors.
SIDES = {
    "mmdet": "mmdet_side",
    "queryinst": "queryinst_side",
    "maskrcnn": "yardsticks",
    "resnet50": "yardsticks",
}


def main(argv: list[str]) -> None:
    run, out = json.loads(argv[0]), argv[1]
    side = importlib.import_module(f".{SIDES[run['side']]}", __package__)
    step, collect = side.build(run)
    measurement, last = measure(
        step, device=run["device"], warmup=run["warmup"], repeats=run["repeats"]
    )
    result = {
        "measurement": measurement.to_dict(),
        "outputs": collect(last),
        "threads": torch.get_num_threads(),
        "note": getattr(side, "NOTES", {}).get(run["side"], ""),
    }
    torch.save(result, out)


if __name__ == "__main__":
    main(sys.argv[1:])
