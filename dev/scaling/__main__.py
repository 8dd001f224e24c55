"""Measure what many GPUs need, and print the tables of docs/scaling.md.

On CUDA the memory of one rank and the time of its step; on the CPU everything else. Weights and
images are random; there is nothing to download.
"""

import argparse
import logging

import torch

from dev.benchmark.command import read_size
from queryinst.environment import as_line, describe_hardware, describe_versions

from . import checkpoints, communication, heads, loader, memory, simulation

RANKS = (8, 64)
GPU_RATES = (20, 50, 100, 200)  # images a second of one GPU


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dev.scaling",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--device", default="cpu", help='"cuda" measures the memory of one rank alone')
    add("--size", type=read_size, default=(800, 1333), metavar="HxW", help="images of the memory")
    add("--queries", type=int, nargs="+", choices=(100, 300), default=[100, 300])
    add("--images", type=int, nargs="+", help="of one rank; if not given 1 2, on CUDA 1 2 4 8 16")
    add("--precisions", nargs="+", choices=("fp32", "bf16", "fp16"), help="if not given all")
    step = "of one GPU with two images, which the simulation assumes"
    add("--step-seconds", type=float, default=0.3, metavar="S", help=step)
    return parser


def print_section(title: str, text: str) -> None:
    print(f"\n## {title}\n\n{text}", flush=True)


def print_memory(args: argparse.Namespace) -> None:
    on_cuda = args.device.startswith("cuda")
    text = memory.measure_all(
        device=args.device,
        size=args.size,
        queries=args.queries,
        images=args.images or ([1, 2, 4, 8, 16] if on_cuda else [1, 2]),
        precisions=args.precisions or (["fp32", "bf16", "fp16"] if on_cuda else ["fp32", "bf16"]),
    )
    print_section("Memory of one rank, {}x{} pixels".format(*args.size), text)


def print_everything_else(args: argparse.Namespace) -> None:
    rates = loader.measure_rates()
    print_section("Loader", loader.rates_table(rates, GPU_RATES))
    text, gradient_bytes = checkpoints.checkpoint_table()
    print_section("Checkpoints", text)
    print_section("All-reduce", communication.links_table(gradient_bytes, RANKS))
    setups = simulation.setups(rates, gradient_bytes, args.step_seconds)
    title = f"Simulation, {args.step_seconds:g} s a step of two images"
    print_section(title, simulation.simulation_table(setups, (1, *RANKS)))
    print_section("Classes, two images of {}x{} pixels".format(*heads.SIZE), heads.heads_table())


def main(args: argparse.Namespace) -> None:
    on_cuda = args.device.startswith("cuda")
    if on_cuda and not torch.cuda.is_available():
        raise SystemExit(f"torch finds no GPU for --device {args.device}")
    print(f"{as_line(describe_hardware(args.device))}; {as_line(describe_versions())}")
    logging.disable(logging.INFO)
    print_memory(args)
    if not on_cuda:
        print_everything_else(args)
        return
    title = "Classes, {} images of {}x{} pixels".format(heads.CASE.images, *args.size)
    print_section(title, heads.cuda_table(args.device, args.size))


if __name__ == "__main__":
    main(build_parser().parse_args())
