"""Trains and evaluates in one process, then in several, and compares.

Run by test_train_processes.py in an interpreter of its own, since it forks. Arguments: what to
compare, a folder, and what that function of the same name takes.
"""

import json
import os
import socket
import sys
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from pictures import CONFIG
from torch import distributed, multiprocessing

from queryinst.checkpoint import QueryInstCheckpointer
from queryinst.data.registration import register_from_args
from queryinst.engine import Trainer
from queryinst.testing import random_batch, tiny_cfg

# Instances of the eight images in each step. In the second one the first of two and two of four
# processes have none at all.
NUMS = [(2, 1, 3, 0, 1, 2, 0, 1), (0, 1, 0, 2, 0, 0, 0, 3)]
Weights = dict[str, torch.Tensor]


class RankTrainer(Trainer):
    """Each process trains on its share of batches that are the same everywhere.

    In float64. Images are dealt out as Detectron2's samplers do: 0, 2, 4, 6 to the first of two.
    """

    steps: list[int] = []  # numbers of the batches; if empty, from 0 on

    @classmethod
    def build_model(cls, cfg):
        return super().build_model(cfg).double()

    @classmethod
    def build_train_loader(cls, cfg):
        steps = cls.steps or range(cfg.SOLVER.MAX_ITER)
        batches = [random_batch(NUMS[step % 2], 64, 64, seed=10 * step) for step in steps]
        return [batch[comm.get_rank() :: comm.get_world_size()] for batch in batches]


def config(output_dir: str, norm: str, num_parts: int, num_steps: int) -> CfgNode:
    cfg = tiny_cfg(
        MODEL__ROI_MASK_HEAD__NORM=norm,
        MODEL__ROI_MASK_HEAD__CONV_DIM=32,  # which GN's 32 groups divide
        MODEL__ROI_MASK_HEAD__NUM_CONV=2,
        MODEL__RESNETS__NORM="naiveSyncBN" if norm == "naiveSyncBN" else "BN",
        MODEL__BACKBONE__NORM_EVAL=norm != "naiveSyncBN",
        SOLVER__IMS_PER_BATCH=8,
        SOLVER__ACCUMULATE_STEPS=num_parts,
        SOLVER__MAX_ITER=num_steps,
        SOLVER__SKIP_NONFINITE=2,
        SOLVER__STEPS=(),
        SOLVER__WARMUP_ITERS=0,
        SOLVER__CHECKPOINT_PERIOD=100,
        # Not AdamW, whose steps have the size of the rate whatever the gradients' size.
        SOLVER__OPTIMIZER="SGD",
        SOLVER__BASE_LR=0.01,
        SOLVER__CLIP_GRADIENTS__ENABLED=True,
        SOLVER__CLIP_GRADIENTS__CLIP_TYPE="full_model",
        SOLVER__CLIP_GRADIENTS__CLIP_VALUE=10.0,
        OUTPUT_DIR=output_dir,
    )
    cfg.freeze()
    return cfg


def train(output_dir: str, norm: str, num_parts: int) -> Weights:
    torch.manual_seed(0)
    trainer = RankTrainer(config(output_dir, norm, num_parts, len(NUMS)))
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    moved = max(float((after[name] - before[name]).detach().abs().max()) for name in before)
    assert moved > 1e-3, f"the weights moved by {moved} only"
    # In several processes naiveSyncBN has no Bessel's correction in its running variances, and does
    # not count batches.
    others = ("running_var", "num_batches_tracked")
    state = getattr(trainer.model, "module", trainer.model).state_dict()
    return {name: value for name, value in state.items() if not name.endswith(others)}


def in_group(world: int, folder: str, function, *args) -> list:
    """What `function(*args)` returns in each of `world` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = (world, port, folder, function, args)
    multiprocessing.start_processes(run_rank, args=context, nprocs=world, start_method="fork")
    return [torch.load(os.path.join(folder, f"rank{rank}.pth")) for rank in range(world)]


def run_rank(rank: int, world: int, port: int, folder: str, function, args) -> None:
    address = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", init_method=address, world_size=world, rank=rank)
    comm.create_local_process_group(world)
    torch.save(function(*args), os.path.join(folder, f"rank{rank}.pth"))
    distributed.destroy_process_group()


def assert_equal(actual: Weights, expected: Weights) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-8, atol=1e-10, msg=name)


def training(folder: str, *cases: str) -> None:
    """Cases are NORM:PROCESSES:PARTS."""
    many = {}
    for case in cases:  # first, since a process with threads must not fork
        norm, world, parts = case.split(":")
        many[case] = in_group(int(world), folder, train, f"{folder}/{case}", norm, int(parts))
    one: dict[tuple[str, int], Weights] = {}
    for case, ranks in many.items():
        norm, _, parts = case.split(":")
        # Parts that batch norms normalize count; others add up to the whole.
        key = norm, int(parts) if norm == "naiveSyncBN" else 1
        if key not in one:
            one[key] = train(f"{folder}/one", *key)
        for weights in ranks:
            assert_equal(weights, one[key])
    print(f"{len(many)} cases are equal")


def train_spoilt(output_dir: str) -> tuple[Weights, str]:
    """Rank 1 spoils all steps but the second: a loss, its costs, and gradients until the end."""
    torch.manual_seed(0)
    trainer = RankTrainer(config(output_dir, "naiveSyncBN", 1, num_steps=5))
    model = trainer.model.module

    def spoiling(*steps: int):
        """A hook that makes values not finite."""
        is_at_fault = comm.get_rank() == 1

        def spoil(*args):
            factor = float("nan") if is_at_fault and trainer.iter in steps else 1
            values = args[-1]
            if isinstance(values, dict):
                return {name: x + 0 * factor for name, x in values.items()}
            return values * factor

        return spoil

    model.register_forward_hook(spoiling(0))
    model.cascade.stages[0].cls_logits.register_forward_hook(spoiling(2))
    model.initial_queries.query_feats.register_hook(spoiling(3, 4))
    error = ""
    try:
        trainer.train()
    except FloatingPointError as raised:
        error = str(raised)
    return dict(model.named_parameters()), error


def skipping(folder: str) -> None:
    """Two processes leave the same steps out, and end in the same one."""
    ranks = in_group(2, folder, train_spoilt, f"{folder}/spoilt")
    RankTrainer.steps = [1]
    torch.manual_seed(0)
    trainer = RankTrainer(config(f"{folder}/one", "naiveSyncBN", 1, num_steps=1))
    trainer.train()
    for weights, error in ranks:
        assert_equal(weights, dict(trainer.model.named_parameters()))
        assert error == ranks[0][1]
    print(ranks[0][1])


def evaluate(name: str, output_dir: str, weights: str) -> dict:
    """Writes files in `output_dir`; nothing to return."""
    cfg = tiny_cfg(**CONFIG, DATASETS__TEST=(name,), MODEL__WEIGHTS=weights, OUTPUT_DIR=output_dir)
    model = Trainer.build_model(cfg).eval()
    QueryInstCheckpointer(model).load(weights)
    Trainer.test(cfg, model)
    return {}


def evaluation(folder: str, weights: str, *cases: str) -> None:
    """Cases are DATA:PROCESSES, with DATA.json beside its images in the folder."""
    rows, results = {}, {}
    for case in cases:
        name, world = case.split(":")
        register_from_args([[name, f"{folder}/{name}.json", folder]])
        output = f"{folder}/{case}"
        in_group(int(world), folder, evaluate, name, output, weights)
        predictions = Path(output, "inference", name, "coco_instances_results.json")
        rows[case] = sorted(map(json.dumps, json.loads(predictions.read_text())))
        results[case] = json.loads(Path(output, "results.json").read_text())[name]
    for case in cases:
        first = next(each for each in cases if each.split(":")[0] == case.split(":")[0])
        assert rows[case] == rows[first] and len(set(rows[case])) == len(rows[case]) > 0
        assert results[case] == results[first]
        print(f"{case} {results[case]['segm']['AP']}")


if __name__ == "__main__":
    {"training": training, "skipping": skipping, "evaluation": evaluation}[sys.argv[1]](
        *sys.argv[2:]
    )
