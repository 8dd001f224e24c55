"""Measure one side in a process of its own, for compare_with_mmdet.py.

usage: python -m dev.benchmark.worker '{"side": ..., "task": ..., ...}' OUT

Side "mmdet" runs in the peer environment, the others in the project's. Default threads. Writes the
measurement and what was computed with torch.save.
"""

import importlib
import json
import sys
from dataclasses import asdict

import torch

from .measuring import measure


def main(argv: list[str]) -> None:
    run, out = json.loads(argv[0]), argv[1]
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = run["tf32"]
    side = importlib.import_module(f".{run['side']}_side", __package__)
    step, collect = side.build(run)
    measurement, last = measure(
        step, device=run["device"], warmup=run["warmup"], repeats=run["repeats"]
    )
    result = {"measurement": asdict(measurement), "outputs": collect(last)}
    torch.save(result | {"threads": torch.get_num_threads()}, out)


if __name__ == "__main__":
    main(sys.argv[1:])
