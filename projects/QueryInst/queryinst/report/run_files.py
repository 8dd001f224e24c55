"""What a training left in its OUTPUT_DIR."""

import json
import os
import re
from dataclasses import dataclass
from typing import Any

import yaml

# What COCO's and LVIS's evaluators call their files of predictions.
_PREDICTION_FILES = ("coco_instances_results.json", "lvis_instances_results.json")


@dataclass
class RunFiles:
    """The files of a run, read."""

    output_dir: str
    config_text: str  # config.yaml
    config: dict[str, Any]
    results: dict[str, dict[str, dict[str, float | None]]]  # data set -> task -> metric -> percent
    metrics: list[dict[str, float]]  # lines of metrics.json, by rising iteration
    predictions: list[dict[str, Any]]  # of `dataset_name`, COCO's fields
    log: str  # log.txt, empty if there is none

    @property
    def dataset_name(self) -> str:
        """The first of the data sets in results.json."""
        return next(iter(self.results))

    def setting(self, key: str, default: Any = None) -> Any:
        """A value of config.yaml by its dotted key; `default` where it is not there."""
        node: Any = self.config
        for name in key.split("."):
            if not isinstance(node, dict) or name not in node:
                return default
            node = node[name]
        return node

    def training_time(self) -> str | None:
        """How long the last training took, as "0:07:12", evaluations included; by the log."""
        times = re.findall(r"Total training time: ([^\s(]+(?: days?, [^\s(]+)?)", self.log)
        return times[-1] if times else None


def read_run(output_dir: str) -> RunFiles:
    """Read OUTPUT_DIR of a finished training.

    Raises:
        FileNotFoundError: a file is missing; the message says what writes it.
        ValueError: a file that is damaged or empty.
    """
    if not os.path.isdir(output_dir):
        raise FileNotFoundError(f"--output-dir {output_dir} is not a folder; train_net.py makes it")
    config_text = _read(output_dir, "config.yaml")
    results = _parse(output_dir, "results.json")
    if not isinstance(results, dict) or not results:
        raise ValueError(f"{output_dir}/results.json holds no results; set DATASETS.TEST and train")
    log_path = os.path.join(output_dir, "log.txt")
    return RunFiles(
        output_dir=output_dir,
        config_text=config_text,
        config=_parse_config(output_dir, config_text),
        results=results,
        metrics=parse_metrics(_read(output_dir, "metrics.json"), f"{output_dir}/metrics.json"),
        predictions=_read_predictions(output_dir, next(iter(results))),
        log=_read(output_dir, "log.txt") if os.path.isfile(log_path) else "",
    )


def parse_metrics(text: str, shown: str) -> list[dict[str, float]]:
    """Detectron2's JSON lines, one dict an iteration.

    A resumed training appends to the file and repeats iterations: what it did over counts.

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
            raise ValueError(f"{shown}, line {number} is not one of Detectron2's") from error
        for later in [i for i in by_iteration if i > iteration]:
            del by_iteration[later]
        by_iteration.setdefault(iteration, {}).update(entry)
    return [by_iteration[iteration] for iteration in sorted(by_iteration)]


def _read_predictions(output_dir: str, dataset_name: str) -> list[dict[str, Any]]:
    folder = os.path.join("inference", dataset_name)
    for name in _PREDICTION_FILES:
        if os.path.isfile(os.path.join(output_dir, folder, name)):
            predictions = _parse(output_dir, os.path.join(folder, name))
            if not isinstance(predictions, list):
                raise ValueError(f"{output_dir}/{folder}/{name} is not a list of predictions")
            return predictions
    return _missing(os.path.join(output_dir, folder, _PREDICTION_FILES[0]))


def _read(output_dir: str, name: str) -> str:
    path = os.path.join(output_dir, name)
    if not os.path.isfile(path):
        return _missing(path)
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _missing(path: str) -> Any:
    raise FileNotFoundError(f"{path} is missing; a training by train_net.py that ended writes it")


def _parse(output_dir: str, name: str) -> Any:
    try:
        return json.loads(_read(output_dir, name))
    except ValueError as error:
        raise ValueError(f"{output_dir}/{name} is not JSON ({error})") from error


def _parse_config(output_dir: str, text: str) -> dict[str, Any]:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{output_dir}/config.yaml is not yaml") from error
    if not isinstance(config, dict):
        raise ValueError(f"{output_dir}/config.yaml is not a mapping of keys")
    return config
