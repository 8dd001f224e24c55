"""Kills trainings at random moments, resumes them, and compares their ends bit by bit.

    python -m dev.reliability.kills [--kills 50] [--seed 0] [--settings NAME ...]

At least a third of the kills hit a file that is being written. Each life has another number of
workers. Prints a table in Markdown; the status is 1 if a run did not end as the uninterrupted one.
"""

import argparse
import json
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.engine import defaults

from dev.reliability.lives import Life, fork, live, unfinished
from dev.reliability.tiny_training import SETTINGS, TinyTraining, differences
from queryinst.engine import run

TWO_PROCESSES = "two processes"
_OPTS = SETTINGS | {TWO_PROCESSES: SETTINGS["accumulation"] + SETTINGS["crops"]}


class Row(NamedTuple):
    setting: str
    kills: int
    in_writes: int
    lives: int
    runs: int
    problems: list[str]


class Killer:
    """Runs one setting until it was killed often enough."""

    def __init__(self, training: TinyTraining, folder: Path, name: str, seed: int):
        """
        Args:
            name: of SETTINGS, or TWO_PROCESSES.
        """
        self._training, self._folder, self._name = training, folder, name
        self._rng = random.Random(seed)
        self._world_size = 2 if name == TWO_PROCESSES else 1
        self._lives: list[Life] = []
        self._seconds = 0.0  # that a whole run takes

    def kill(self, kills: int, in_writes: int) -> Row:
        """Kill at least so often; a run that ends before is compared, and another one begins."""
        whole, output = self._folder / "whole", self._folder / "killed"
        first = self._live(whole)
        self._seconds, runs, problems = first.seconds, 0, []
        if first.status or first.killed:
            return Row(self._name, 0, 0, 1, 1, [f"uninterrupted run: status {first.status}"])
        while kills > 0 or in_writes > 0:
            life = self._life_to_kill(output, in_writes >= kills or self._rng.random() < 1 / 3)
            kills -= life.killed
            in_writes -= life.in_write
            if not life.killed:
                problems += _problems(whole, output, life.status)
                runs += 1
                shutil.rmtree(output)
        if output.exists():
            problems += _problems(whole, output, self._live(output).status)
            runs += 1
        killed = [life for life in self._lives if life.killed]
        in_write = sum(life.in_write for life in killed)
        return Row(self._name, len(killed), in_write, len(self._lives) - 1, runs, problems)

    def _life_to_kill(self, output: Path, in_write: bool) -> Life:
        """One life that is killed at some moment, or in the first write after that moment."""
        after = self._rng.uniform(0.05, 0.9) * self._seconds
        delay = self._rng.uniform(0, 0.003)
        before = unfinished(output)

        def is_time(seconds: float) -> bool:
            if seconds < after:
                return False
            if in_write and unfinished(output) - before:
                time.sleep(delay)
                return True
            return not in_write

        return self._live(output, is_time)

    def _live(self, output: Path, is_time: Callable[[float], bool] = lambda seconds: False) -> Life:
        workers = ("DATALOADER.NUM_WORKERS", self._rng.randrange(3))
        args = self._training.args(output, *_OPTS[self._name], *workers, resume=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def start(rank: int) -> int:
            return fork(lambda: self._run(args, rank, port), self._folder / "log.txt")

        life = live([start(rank) for rank in range(self._world_size)], is_time, output)
        self._lives.append(life)
        return life

    def _run(self, args: argparse.Namespace, rank: int, port: int) -> int:
        if self._world_size > 1:  # as torchrun does
            world = {"WORLD_SIZE": self._world_size, "LOCAL_WORLD_SIZE": self._world_size}
            place = {"RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
            os.environ |= {key: str(value) for key, value in (world | place).items()}
            os.environ["MASTER_ADDR"] = "127.0.0.1"
        return run(args)


def _problems(whole: Path, output: Path, status: int) -> list[str]:
    """What is wrong with a run that was killed and went on to its end."""
    if status:
        return [f"status {status}"]
    problems = []
    if changed := differences(output / "model_final.pth", whole / "model_final.pth"):
        problems.append(f"{len(changed)} differ, first {changed[0]}")
    last = output / (output / "last_checkpoint").read_text()
    torch.load(last, weights_only=True)
    problems += [f"{path.name} is left" for path, *_ in unfinished(output)]
    # It may be empty: Detectron2 writes every 20 iterations and at the end of a life with a step.
    for line in (output / "metrics.json").read_text().splitlines():
        json.loads(line)
    return problems


def kill_all(names: Iterable[str], kills: int, seed: int, folder: Path) -> list[Row]:
    """Share the kills among the settings."""
    names = list(names)
    training = TinyTraining(folder)
    rows = []
    for index, name in enumerate(names):
        share = kills * (index + 1) // len(names) - kills * index // len(names)
        own_folder = folder / name.replace(" ", "_")
        own_folder.mkdir()
        rows.append(Killer(training, own_folder, name, seed + index).kill(share, -(-share // 3)))
        print(f"{name}: {rows[-1]}", file=sys.stderr, flush=True)
    return rows


def table(rows: list[Row]) -> str:
    """In Markdown, with the sums."""
    lines = ["| setting | kills | during writes | lives | runs | equal |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | --- |")
    for row in rows:
        equal = "; ".join(row.problems) or "all"
        lines.append(f"| {' | '.join(map(str, row[:5]))} | {equal} |")
    sums: list[Any] = [sum(column) for column in zip(*(row[1:5] for row in rows))]
    verdict = "no" if any(row.problems for row in rows) else "all"
    lines.append(f"| {' | '.join(map(str, ['all', *sums]))} | {verdict} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    known = [name for name in (*SETTINGS, TWO_PROCESSES) if name != "all of these"]
    parser.add_argument("--settings", nargs="+", default=known, choices=_OPTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    defaults.collect_env_info = lambda: "not looked at"  # takes a second in each life
    with tempfile.TemporaryDirectory() as folder:
        rows = kill_all(args.settings, args.kills, args.seed, Path(folder))
    print(table(rows))
    return int(any(row.problems for row in rows))


if __name__ == "__main__":
    sys.exit(main())
