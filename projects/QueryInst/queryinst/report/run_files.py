"""What a training left in its OUTPUT_DIR."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..yaml_files import load_yaml

# What COCO's and LVIS's evaluators call their files of predictions.
_PREDICTION_FILES = ("coco_instances_results.json", "lvis_instances_results.json")


@dataclass
class RunFiles:
    """The files of a run, read."""

    config_text: str  # config.yaml
    config: dict[str, Any]
    results: dict[str, dict[str, dict[str, float | None]]]  # data set -> task -> metric -> percent
    metrics: list[dict[str, float]]  # lines of metrics.json, by rising iteration
    predictions: list[dict[str, Any]]  # of `dataset_name`, COCO's fields
    training_time: str | None  # of the last training, evaluations included, as "0:07:12"

    @property
    def dataset_name(self) -> str:
        """The first of the data sets in results.json."""
        return next(iter(self.results))


def read_run(output_dir: str) -> RunFiles:
    """Read OUTPUT_DIR of a finished training.

    Raises:
        FileNotFoundError: a file is missing; the message says what writes it.
        ValueError: a file that is damaged or empty.
    """
    if not os.path.isdir(output_dir):
        raise FileNotFoundError(f"--output-dir {output_dir} is not a folder; train_net.py makes it")
    config_path, results_path, metrics_path, log_path = (
        os.path.join(output_dir, name)
        for name in ("config.yaml", "results.json", "metrics.json", "log.txt")
    )
    results = _parse(results_path, json.loads, dict)
    if not results:
        raise ValueError(f"{results_path} holds no results; set DATASETS.TEST and train")
    folder = os.path.join(output_dir, "inference", next(iter(results)))
    candidates = [os.path.join(folder, name) for name in _PREDICTION_FILES]
    predictions_path = next(filter(os.path.isfile, candidates), candidates[0])
    log = _read(log_path) if os.path.isfile(log_path) else ""
    times = re.findall(r"Total training time: ([^\s(]+(?: days?, [^\s(]+)?)", log)
    return RunFiles(
        config_text=_read(config_path),
        config=_parse(config_path, partial(load_yaml, label=config_path), dict),
        results=results,
        metrics=parse_metrics(_read(metrics_path), metrics_path),
        predictions=_parse(predictions_path, json.loads, list),
        training_time=times[-1] if times else None,
    )


def parse_metrics(text: str, path: str) -> list[dict[str, float]]:
    """Detectron2's JSON lines, one dict an iteration.

    A resumed training appends to the file and repeats iterations: its lines replace the old ones.

    Raises:
        ValueError: a line that is not JSON, but for the last one of a run that was killed.
    """
    by_iteration: dict[int, dict[str, float]] = {}
    lines = [line for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            iteration = int(entry["iteration"])
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is not one of Detectron2's") from error
        for later in [i for i in by_iteration if i > iteration]:
            del by_iteration[later]
        by_iteration.setdefault(iteration, {}).update(entry)
    return [by_iteration[iteration] for iteration in sorted(by_iteration)]


def _read(path: str) -> str:
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{path} is missing; a training by train_net.py that ended writes it"
        )
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _parse(path: str, load: Callable[[str], Any], kind: type) -> Any:
    try:
        content = load(_read(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    if not isinstance(content, kind):
        raise ValueError(f"{path} holds no {kind.__name__}")
    return content
