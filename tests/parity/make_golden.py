"""Writes the goldens: what MMDetection's QueryInst computes on the narrow model.

Runs in the peer environment, see README.md in this folder:

    .venv-peer/bin/python tests/parity/make_golden.py [--out FOLDER]
"""

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

import mmcv
import mmdet
import mmdet_edges
import mmdet_peer
import mmdet_runs
import mmdet_solver
import mmengine
import numpy as np
import torch
import torchvision
from comparison import level_margin, stack_boxes
from golden_files import save_record
from golden_settings import (
    LONG_RATE,
    LONG_STEPS,
    SAMPLES,
    WEIGHTS_SEED,
    inputs_digest,
    long_batches,
    weights_digest,
)
from mmengine.logging import MMLogger
from parity_cases import NARROW, narrow_batches
from parity_inputs import trained_looking

SCHEDULES = {"1x": "queryinst_R_50_FPN_1x", "3x": "queryinst_R_50_FPN_3x"}
MIN_MARGIN = 1e-4  # of the 50 steps, which have many more boxes, a tenth


class Maker:
    """The narrow model of MMDetection in float64, and where its records go."""

    def __init__(self, out: Path):
        self.out = out
        self.cfg = mmdet_peer.narrow(mmdet_peer.load_config(SCHEDULES["1x"]), **NARROW)
        self.model = mmdet_peer.build(self.cfg)
        self.shapes = mmdet_peer.shapes_of(self.model)
        self.state = trained_looking(self.shapes, WEIGHTS_SEED)
        self.batches = narrow_batches()

    def reset(self) -> None:
        mmdet_runs.set_weights(self.model, self.state, torch.float64)

    def write_json(self, name: str, content: Any) -> None:
        (self.out / f"{name}.json").write_text(json.dumps(content, indent=0) + "\n")

    def write_record(self, name: str, record: dict[str, torch.Tensor]) -> None:
        save_record(self.out / f"{name}.npz", record, SAMPLES[name])

    def training(self) -> None:
        """A pass over each batch; after the one over "plain" an optimizer step."""
        for name, batch in self.batches.items():
            self.reset()
            record = mmdet_runs.training_run(self.model, batch.images, batch.objects, torch.float64)
            check_margin(record, MIN_MARGIN)
            self.write_record(f"training_{name}", record)
            if name == "plain":
                optimizer = mmdet_solver.build_optimizer(self.cfg, self.model)
                self.groups = mmdet_solver.parameter_groups(optimizer, self.model)
                self.write_record("step", mmdet_solver.clipped_step(optimizer, self.model))

    def prediction(self) -> None:
        self.reset()
        batch = self.batches["plain"]
        record = mmdet_runs.prediction_run(
            self.model, batch.images, batch.output_sizes, torch.float64
        )
        check_margin(record, MIN_MARGIN)
        self.write_record("prediction", record)

    def long_training(self) -> None:
        self.reset()
        self.cfg.optim_wrapper.optimizer.lr = LONG_RATE
        optimizer = mmdet_solver.build_optimizer(self.cfg, self.model)
        record = mmdet_solver.long_run(
            self.model,
            optimizer,
            long_batches(),
            LONG_STEPS,
            lambda record: check_margin(record, MIN_MARGIN / 10),
        )
        self.write_record("long_training", record)

    def settings(self) -> None:
        """Everything that is no tensor."""
        self.write_json("narrow_shapes", self.shapes)
        digests = {
            "weights": weights_digest(self.state),
            "inputs": inputs_digest([*self.batches.values(), *long_batches()]),
        }
        self.write_json("digests", digests)
        rates = {
            name: mmdet_solver.learning_rates(mmdet_peer.load_config(config))
            for name, config in SCHEDULES.items()
        }
        self.write_json("solver", {"learning_rates": rates, "groups": self.groups})
        self.write_json("parameter_names", shared_names())
        self.write_json("versions", versions())


def shared_names() -> dict[str, Any]:
    """Lists of all models of MMDetection, each list once."""
    lists: list[dict] = []
    models = {}
    for name in mmdet_peer.CONFIGS:
        names = mmdet_solver.parameter_names(name)
        if names not in lists:
            lists.append(names)
        models[name] = lists.index(names)
    return {"models": models, "lists": lists}


def check_margin(record: dict[str, torch.Tensor], least: float) -> None:
    margin = level_margin(stack_boxes(record))
    assert margin >= least, f"a box is {margin:.1e} from another pyramid level: change the seeds"


def versions() -> dict[str, str]:
    modules = (mmdet, mmengine, mmcv, torch, torchvision, np)
    versions = {module.__name__: str(module.__version__) for module in modules}
    return versions | {"mmcv package": "mmcv-lite", "date": datetime.date.today().isoformat()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "goldens")
    torch.set_num_threads(1)  # the order of sums, so their last bits, depend on it
    MMLogger.get_current_instance().setLevel("WARNING")  # not every parameter's learning rate
    maker = Maker(parser.parse_args().out)
    maker.out.mkdir(parents=True, exist_ok=True)
    maker.training()
    maker.prediction()
    maker.long_training()
    maker.write_record("edges", mmdet_edges.edge_record())
    maker.settings()
    sizes = {path.name: path.stat().st_size for path in sorted(maker.out.iterdir())}
    for name, size in sizes.items():
        print(f"{size:>9} {name}")
    print(f"{sum(sizes.values()):>9} in all")


if __name__ == "__main__":
    main()
