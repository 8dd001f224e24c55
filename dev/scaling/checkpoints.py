"""Size of a checkpoint with its optimizer, and the time to write it and to read it."""

import os
import statistics
import tempfile
import time

import torch

from dev.benchmark.subjects import BatchTrainer

from .memory import Case, config_of
from .tables import gigabytes, table

REPEATS = 3


def checkpoint_table() -> tuple[str, int]:
    """The table, and the bytes of all gradients."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = config_of(Case(100, 1, "fp32"), "cpu")
        cfg.OUTPUT_DIR = folder
        trainer = BatchTrainer(cfg, [])
        trained = [x for x in trainer.model.parameters() if x.requires_grad]
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        trainer.optimizer.step()  # makes the moments
        writing, reading = [], []
        path = os.path.join(folder, "model.pth")
        for _ in range(REPEATS):
            start = time.perf_counter()
            trainer.checkpointer.save("model")
            writing.append(time.perf_counter() - start)
            start = time.perf_counter()
            trainer.checkpointer.resume_or_load("", resume=True)
            reading.append(time.perf_counter() - start)
        size = os.path.getsize(path)
    seconds = statistics.median(writing), statistics.median(reading)
    row = ["R-50, 100 queries", gigabytes(size)]
    row += [f"{x:.1f} s ({size / x / 1e6:.0f} MB/s)" for x in seconds]
    headers = ["checkpoint with optimizer", "size", "written in", "read in"]
    return table(headers, [row]), sum(x.nbytes for x in trained)
