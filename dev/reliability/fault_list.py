"""The faults of dev.reliability.faults."""

import copy
import os
import shutil
import signal
import time
from collections.abc import Callable
from typing import Any

from .fault_runs import LONG, SHORT, TEST, TWO, Case, Fault, Seen, is_done, is_stopped, says

IN_TRAINING = "iter: 40/"  # the second line: the first loads TensorBoard
IN_EVALUATION = "Start inference"


def signalled(
    number: int,
    *opts: Any,
    at: str = IN_TRAINING,
    to: str = "main",
    second: float | None = None,
) -> Callable[[Case], Seen]:
    """Send to the main process, to "all", or to a rank; a second one so many seconds later."""

    def happen(case: Case) -> Seen:
        case.start(*opts)
        case.wait_for(at)
        for delay in (0.0,) if second is None else (0.0, second):
            time.sleep(delay)
            if to == "all":
                os.killpg(case.pid, number)
            else:
                os.kill(case.pid if to == "main" else case.ranks()[int(to)], number)
        return case.end()

    return happen


def full(name: str, *opts: Any) -> Callable[[Case], Seen]:
    """A file whose device is full."""

    def happen(case: Case) -> Seen:
        (case.output / name).parent.mkdir(parents=True)
        (case.output / name).symlink_to("/dev/full")
        return case.run(*opts)

    return happen


def full_events(case: Case) -> Seen:
    code = "from tensorboard.compat.tensorflow_stub.io import gfile\n"
    code += "def full(*args): raise OSError(28, 'No space left on device')\n"
    code += "gfile.LocalFileSystem.append = full"
    return case.run(*SHORT, code=code)


def full_predictions(case: Case) -> Seen:
    code = "import json, types\n"
    code += "from detectron2.evaluation import coco_evaluation\n"
    code += "def full(*args): raise OSError(28, 'No space left on device')\n"
    code += "coco_evaluation.json = types.SimpleNamespace(dumps=full, load=json.load)"
    return case.run(*SHORT, *TEST, code=code)


def folder_removed(case: Case) -> Seen:
    case.start(*LONG)
    case.wait_for(IN_TRAINING)
    shutil.rmtree(case.output, ignore_errors=True)
    return case.end()


def two_runs(case: Case) -> Seen:
    case.start(*LONG)
    case.wait_for(IN_TRAINING)
    second = copy.copy(case)
    second.folder = case.folder / "second"
    second.folder.mkdir()
    seen = second.run(*SHORT)
    os.kill(case.pid, signal.SIGKILL)
    case.end()
    return seen


def killed_then_resumed(case: Case) -> Seen:
    case.start(*LONG, "SOLVER.CHECKPOINT_PERIOD", 10)
    case.wait_for(IN_TRAINING)
    os.kill(case.pid, signal.SIGKILL)
    case.end()
    with open(case.output / "metrics.json", "a") as file:
        file.write('{"iteration": 2')
    seen = case.run("--resume", "SOLVER.MAX_ITER", 60)
    torn = (case.output / "metrics.json").read_text().count('{"iteration": 2\n')
    return seen if torn == 1 else seen._replace(lines=["metrics.json: the torn line goes on"])


def damaged(change: Callable[[Case], None]) -> Callable[[Case], Seen]:
    """A finished run whose files change before a resume with more iterations."""

    def happen(case: Case) -> Seen:
        case.run(*SHORT)
        os.remove(case.output / "model_final.pth")
        (case.output / "last_checkpoint").write_text("model_0000002.pth")
        change(case)
        return case.run("--resume", "SOLVER.MAX_ITER", 5)

    return happen


def truncate(case: Case) -> None:
    path = case.output / "model_0000002.pth"
    os.truncate(path, path.stat().st_size // 2)


def empty_tag(case: Case) -> None:
    (case.output / "last_checkpoint").write_text("")


def nan_gradient(case: Case) -> Seen:
    code = "from queryinst.modeling.meta_arch import QueryInst\n"
    code += "forward, steps = QueryInst.forward, []\n"
    code += "def poisoned(self, x):\n"
    code += "    steps.append(0)\n"
    code += "    if len(steps) == 3:\n"
    code += "        next(self.mask_head.parameters()).register_hook(lambda g: g * float('nan'))\n"
    code += "    return forward(self, x)\n"
    code += "QueryInst.forward = poisoned"
    return case.run(*SHORT, code=code)


STOP = "status 75, nothing on stderr, a checkpoint"
ONE_LINE = "status 1, one line with the file, all checkpoints whole"
FAULTS = [
    Fault("SIGTERM in a training", STOP, signalled(signal.SIGTERM, *LONG), is_stopped),
    Fault("SIGUSR1 in a training", STOP, signalled(signal.SIGUSR1, *LONG), is_stopped),
    Fault("SIGINT in a training", STOP, signalled(signal.SIGINT, *LONG), is_stopped),
    Fault(
        "SIGINT to all processes, as a terminal does",
        STOP,
        signalled(signal.SIGINT, *TWO, *LONG, to="all"),
        is_stopped,
    ),
    Fault(
        "SIGINT to the launcher of two processes alone",
        f"{STOP}; within 5 s",
        signalled(signal.SIGINT, *TWO, *LONG),
        lambda seen: is_stopped(seen) and seen.seconds < 5,
    ),
    Fault(
        "SIGUSR1 to the second of two processes alone",
        STOP,
        signalled(signal.SIGUSR1, *TWO, *LONG, to="1"),
        is_stopped,
    ),
    Fault(
        "SIGTERM twice to the launcher",
        "status 143, or 75 if the first has been heeded by then; within 5 s",
        signalled(signal.SIGTERM, *TWO, *LONG, second=0.05),
        lambda seen: seen.status in (75, 143) and seen.seconds < 5,
    ),
    Fault(
        "SIGTERM before the training",
        "status 143, one line",
        signalled(signal.SIGTERM, *LONG, at="Rank of current process"),
        says("ended by SIGTERM", status=143),
    ),
    Fault(
        "SIGTERM in an evaluation within the training",
        STOP,
        signalled(signal.SIGTERM, *LONG, *TEST, "TEST.EVAL_PERIOD", 5, at=IN_EVALUATION),
        is_stopped,
    ),
    Fault(
        "SIGKILL to one of two processes",
        "status 1, one line; within 5 s",
        signalled(signal.SIGKILL, *TWO, *LONG, to="1"),
        lambda seen: says("SIGKILL")(seen) and seen.seconds < 5,
    ),
    Fault("disk full for log.txt", ONE_LINE, full("log.txt", *SHORT), says("log.txt")),
    Fault(
        "disk full for metrics.json", ONE_LINE, full("metrics.json", *SHORT), says("metrics.json")
    ),
    Fault("disk full for config.yaml", ONE_LINE, full("config.yaml", *SHORT), says("config.yaml")),
    Fault("disk full for TensorBoard's events", ONE_LINE, full_events, says("events.out.tfevents")),
    Fault(
        "disk full for predictions",
        ONE_LINE,
        full_predictions,
        says("coco_instances_results.json"),
    ),
    Fault(
        "files limited to 200 kB",
        ONE_LINE,
        lambda case: case.run(*SHORT, limit=200_000),
        says("model_0000000.pth"),
    ),
    Fault(
        "OUTPUT_DIR removed in a training",
        "status 1, one line with the folder, a checkpoint",
        folder_removed,
        says("was removed or renamed"),
    ),
    Fault(
        "two runs in one OUTPUT_DIR", "the second: status 1, one line", two_runs, says("in use by")
    ),
    Fault(
        "SIGKILL, a stale lock and a torn line in metrics.json, then --resume",
        "status 0, metrics go on in a new line",
        killed_then_resumed,
        is_done,
    ),
    Fault(
        "the newest checkpoint is truncated, then --resume",
        "status 0, from the one before",
        damaged(truncate),
        lambda seen: seen.status == 0,
    ),
    Fault(
        "last_checkpoint is empty, then --resume",
        "status 0",
        damaged(empty_tag),
        lambda seen: seen.status == 0,
    ),
    Fault(
        "NaN in one gradient",
        "status 1, one line with the images, all checkpoints finite",
        nan_gradient,
        says(".png"),
    ),
]
