"""Memory of one rank by queries, images and precision, on random weights and images.

What is counted carries over from the CPU: bytes of weights, gradients and optimizer, and of the
tensors that the forward pass keeps for the backward pass. The peak is measured on CUDA alone, since
the CPU's kernels have other buffers.
"""

import gc
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from parity_cases import make_batch

from dev.benchmark.common_inputs import IMAGE_SEED
from dev.benchmark.measuring import measure
from dev.benchmark.subjects import Size, build_subject, inputs_of
from queryinst import model_zoo
from queryinst.engine.amp import training_autocast

from .tables import gigabytes, table

CONFIGS = {100: "queryinst_R_50_FPN_1x", 300: "queryinst_R_50_FPN_3x_300q"}
NUM_INSTANCES = 7  # COCO's average
OUT_OF_MEMORY = "out of memory"
MEASURED = ("weights, gradients, optimizer", "activations", "peak", "reserved", "step")
_FULL = (OUT_OF_MEMORY, "ALLOC_FAILED")  # the allocator's words, and cuBLAS's and cuDNN's


class Case(NamedTuple):
    """One row."""

    queries: int
    images: int  # of one rank
    precision: str  # "fp32", "bf16" or "fp16"


@dataclass
class Memory:
    """In bytes; None where it isn't measured."""

    fixed: int | None = None  # weights, gradients and optimizer state
    activations: int | None = None  # kept for the backward pass
    peak: int | None = None  # of the allocator, with everything
    reserved: int | None = None  # what the allocator took of the GPU
    seconds: float | None = None  # of a step
    failure: str = ""


def config_of(case: Case, device: str, num_classes: int = 80) -> CfgNode:
    """The published configuration with the case's precision, without weights to load."""
    cfg = model_zoo.get_config(f"COCO-InstanceSegmentation/{CONFIGS[case.queries]}.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = device, ""
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    cfg.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.WARMUP_FACTOR = 0, 1e-3
    cfg.SOLVER.AMP.ENABLED = case.precision != "fp32"
    if cfg.SOLVER.AMP.ENABLED:
        cfg.SOLVER.AMP.PRECISION = case.precision
    # What the GPU's "auto" keeps for the backward pass, on the CPU too.
    cfg.MODEL.QUERYINST.SPEEDUPS = ("fold_norms", "sync_free_pooling")
    return cfg


def measure_case(case: Case, *, device: str, size: Size, num_classes: int = 80) -> Memory:
    """Build, look at what is kept, and on CUDA train some steps.

    A configuration that the GPU has no room for gives a `failure`, and so does any other that it
    cannot run: the rows after it are measured all the same.
    """
    memory = Memory()
    try:
        _fill(memory, config_of(case, device, num_classes), case.images, size)
    except (RuntimeError, FloatingPointError) as error:
        is_full = any(text in str(error) for text in _FULL)
        memory.failure = OUT_OF_MEMORY if is_full else str(error).splitlines()[0][:80]
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    return memory


def _fill(memory: Memory, cfg: CfgNode, num_images: int, size: Size) -> None:
    device = cfg.MODEL.DEVICE
    subject = build_subject(
        cfg,
        "training",
        num_images=num_images,
        size=size,
        output_size=size,
        num_instances=NUM_INSTANCES,
    )
    memory.fixed = fixed_bytes(subject.model)
    counts, num_classes = [NUM_INSTANCES] * num_images, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    batch = inputs_of(make_batch(IMAGE_SEED, [size] * num_images, counts, num_classes), size)
    memory.activations = activation_bytes(subject.model, batch, cfg)
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        measurement, _ = measure(subject.run, device=device, warmup=2, repeats=3)
        memory.peak, memory.seconds = measurement.peak_bytes, measurement.median
        memory.reserved = torch.cuda.max_memory_reserved(device)


def fixed_bytes(model: torch.nn.Module) -> int:
    """Weights and buffers, and what AdamW trains: a gradient and two moments for each weight."""
    trained = sum(x.nbytes for x in model.parameters() if x.requires_grad)
    return sum(x.nbytes for x in (*model.parameters(), *model.buffers())) + 3 * trained


def activation_bytes(model: torch.nn.Module, batch: list[dict], cfg: CfgNode) -> int:
    """What the forward pass of `batch` keeps for the backward pass, without the weights.

    A storage counts once, however many operations keep it.
    """
    weights = {x.untyped_storage().data_ptr() for x in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a tensor that keeps itself would never be freed

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with EventStorage(), hooks, training_autocast(cfg):
        losses = model(batch)
    del losses
    return sum(kept.values())


def measure_all(
    *, device: str, size: Size, queries: list[int], images: list[int], precisions: list[str]
) -> str:
    """The table of all combinations; each row is also printed when it is ready."""
    rows = []
    for case in map(Case._make, product(queries, images, precisions)):
        memory = measure_case(case, device=device, size=size)
        rows.append([*map(str, case), *row_of(memory)])
        print("  ".join(rows[-1]), flush=True)
    return table(["queries", "images a rank", "precision", *MEASURED], rows, num_texts=3)


def row_of(memory: Memory) -> list[str]:
    """Cells of the columns MEASURED."""
    cells = [gigabytes(memory.fixed), gigabytes(memory.activations)]
    if memory.failure:
        return [*cells, memory.failure, "-", "-"]
    if memory.peak is None:
        return [*cells, "-", "-", "-"]
    seconds = f"{memory.seconds:.3f} s"
    return [*cells, gigabytes(memory.peak), gigabytes(memory.reserved), seconds]
