"""Trains with four images in one process, then with two in each of two, and compares the weights.

Run by test_train_processes.py in an interpreter of its own, since it forks. Arguments: a folder,
ROI_MASK_HEAD.NORM, and the parts in which each of the two processes runs its images.
"""

import os
import socket
import sys

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import distributed, multiprocessing

from queryinst.engine import Trainer
from queryinst.testing import random_batch, tiny_cfg

STEPS = 2
# Instances of the four images in each step. In the second the first process has none at all.
NUMS = [(2, 1, 3, 0), (0, 0, 1, 2)]


class RankTrainer(Trainer):
    """Each process trains on its share of batches that are the same everywhere."""

    @classmethod
    def build_train_loader(cls, cfg):
        rank, world = comm.get_rank(), comm.get_world_size()
        batches = [random_batch(nums, 64, 64, seed=10 * step) for step, nums in enumerate(NUMS)]
        return [batch[rank * 4 // world : (rank + 1) * 4 // world] for batch in batches]


def config(output_dir: str, norm: str, num_parts: int) -> CfgNode:
    cfg = tiny_cfg(
        MODEL__ROI_MASK_HEAD__NORM=norm,
        MODEL__ROI_MASK_HEAD__CONV_DIM=32,  # which GN's 32 groups divide
        MODEL__ROI_MASK_HEAD__NUM_CONV=2,
        SOLVER__IMS_PER_BATCH=4,
        SOLVER__ACCUMULATE_STEPS=num_parts,
        SOLVER__MAX_ITER=STEPS,
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


def train(output_dir: str, norm: str, num_parts: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    trainer = RankTrainer(config(output_dir, norm, num_parts))
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    moved = max(float((after[name] - before[name]).detach().abs().max()) for name in before)
    assert moved > 1e-3, f"the weights moved by {moved} only"
    return {name.removeprefix("module."): value.detach() for name, value in after.items()}


def train_in_group(rank: int, port: int, folder: str, norm: str, num_parts: int) -> None:
    address = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", init_method=address, world_size=2, rank=rank)
    comm.create_local_process_group(2)
    weights = train(os.path.join(folder, "two"), norm, num_parts)
    torch.save(weights, os.path.join(folder, f"rank{rank}.pth"))
    distributed.destroy_process_group()


def main(folder: str, norm: str, num_parts: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(
        train_in_group, args=(port, folder, norm, num_parts), nprocs=2, start_method="fork"
    )
    expected = train(os.path.join(folder, "one"), norm, 1)
    for rank in range(2):
        state = torch.load(os.path.join(folder, f"rank{rank}.pth"))
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5, msg=name)
    print(f"{len(expected)} parameters are equal")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
