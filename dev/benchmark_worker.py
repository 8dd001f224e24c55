#!/usr/bin/env python3
"""Measure one side in a process of its own, for dev/compare_with_mmdet.py.

usage: benchmark_worker.py '{"side": ..., "task": ..., ...}' OUT

Side "mmdet" runs in the peer environment, the others in the project's. Default threads. Writes the
measurement and what was computed with torch.save.
"""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "parity"))
MEASURING = ROOT / "projects" / "QueryInst" / "queryinst" / "benchmark" / "measuring.py"
# What runs each side: a module with build(run) -> step, and the step's outputs as tensors.
SIDES = {
    "mmdet": "benchmark_mmdet",
    "queryinst": "benchmark_queryinst",
    "maskrcnn": "benchmark_yardsticks",
    "trunk": "benchmark_yardsticks",
}


def load_measuring():
    """By its path: importing the package would load Detectron2 into MMDetection's process."""
    spec = importlib.util.spec_from_file_location("measuring", MEASURING)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["measuring"] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def main(argv: list[str]) -> None:
    run, out = json.loads(argv[0]), argv[1]
    measuring = load_measuring()
    side = importlib.import_module(SIDES[run["side"]])
    step, collect = side.build(run)
    measurement, last = measuring.measure(
        step, device=run["device"], warmup=run["warmup"], repeats=run["repeats"]
    )
    import torch

    result = {
        "measurement": measurement.to_dict(),
        "outputs": collect(last),
        "threads": torch.get_num_threads(),
        "note": getattr(side, "NOTES", {}).get(run["side"], ""),
    }
    torch.save(result, out)


if __name__ == "__main__":
    main(sys.argv[1:])
