"""What a training left in its OUTPUT_DIR."""

import logging
import os
import re
from dataclasses import dataclass
from typing import Any

from ..config import MAX_PIXELS
from ..data.coco_json import is_category_id, is_image_id
from ..data.instance_checks import find_box_problem
from ..data.mask_bounds import is_integer, is_number, shorten
from ..json_files import parse_json, read_json
from ..yaml_files import load_yaml

logger = logging.getLogger(__name__)

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
    predictions_path: str
    training_time: str | None  # of the last training, evaluations included, as "0:07:12"

    @property
    def dataset_name(self) -> str:
        """The first of the data sets in results.json."""
        return next(iter(self.results))

    @property
    def max_pixels(self) -> int:
        """INPUT.MAX_PIXELS, which the configurations of other projects have not."""
        image_keys = self.config.get("INPUT")
        value = image_keys.get("MAX_PIXELS") if isinstance(image_keys, dict) else None
        return value if is_integer(value) else MAX_PIXELS


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
    results = _read_results(results_path)
    if not results:
        raise ValueError(f"{results_path} holds no results; set DATASETS.TEST and train")
    folder = os.path.join(output_dir, "inference", next(iter(results)))
    candidates = [os.path.join(folder, name) for name in _PREDICTION_FILES]
    predictions_path = next(filter(os.path.isfile, candidates), candidates[0])
    log = _read(log_path) if os.path.isfile(log_path) else ""
    times = re.findall(r"Total training time: ([^\s(]+(?: days?, [^\s(]+)?)", log)
    return RunFiles(
        config_text=_read(config_path),
        config=_read_config(config_path),
        results=results,
        metrics=parse_metrics(_read(metrics_path), metrics_path),
        predictions=_read_predictions(predictions_path),
        predictions_path=predictions_path,
        training_time=times[-1] if times else None,
    )


def parse_metrics(text: str, path: str) -> list[dict[str, float]]:
    """Detectron2's JSON lines, one dict an iteration.

    A resumed training appends to the file and repeats iterations: its lines replace the old ones.
    Of a line that is torn, as a killed run or a full disk leaves it, only whole entries count, such
    as what the next run wrote after it. One warning says which lines these are.
    """
    by_iteration: dict[int, dict[str, float]] = {}
    torn = []
    for number, line in enumerate(text.split("\n"), start=1):
        entries = [_parse_entry(line)]
        if entries[0] is None and line.strip():
            torn.append(str(number))
            entries = [_parse_entry(part) for part in re.split(r"(?=\{)", line)]
        for entry in filter(None, entries):
            iteration = int(entry["iteration"])
            for later in [i for i in by_iteration if i > iteration]:
                del by_iteration[later]
            by_iteration.setdefault(iteration, {}).update(entry)
    if torn:
        numbers = ", ".join(torn[:5]) + (f" and {len(torn) - 5} more" if len(torn) > 5 else "")
        logger.warning("%s: left out what is torn or damaged in line %s", path, numbers)
    return [by_iteration[iteration] for iteration in sorted(by_iteration)]


def _parse_entry(line: str) -> dict[str, float] | None:
    """The numbers of one line; None if it is not one of Detectron2's."""
    try:
        entry = parse_json(line, "", dict)
        if not (is_integer(entry.get("iteration")) and entry["iteration"] >= 0):
            return None
        return {key: float(value) for key, value in entry.items() if is_number(value)}
    except (ValueError, OverflowError):
        return None


def _read_results(path: str) -> dict[str, dict[str, dict[str, float | None]]]:
    results = _read_json(path, dict)
    for name, tasks in results.items():
        for task, metrics in tasks.items() if isinstance(tasks, dict) else [("", tasks)]:
            if not isinstance(metrics, dict) or not all(map(_is_metric, metrics.values())):
                raise ValueError(
                    f"{path}: {shorten(name)} {shorten(task)} holds {shorten(metrics)}, which must "
                    "be an object of numbers, by metrics"
                )
    return results


def _is_metric(value: Any) -> bool:
    return value is None or (is_number(value) and not abs(value) > 1e9)


def _read_predictions(path: str) -> list[dict[str, Any]]:
    predictions = _read_json(path, list)
    for position, prediction in enumerate(predictions):
        if problem := _find_problem(prediction):
            raise ValueError(f"{path}: prediction {position} {problem}")
    return predictions


def _find_problem(prediction: Any) -> str:
    """What is wrong with an entry of COCO's results format, masks apart; empty if nothing is."""
    if not isinstance(prediction, dict):
        return f"is {shorten(prediction)}, not an object"
    image_id, category_id = prediction.get("image_id"), prediction.get("category_id")
    if not is_image_id(image_id):
        return f"has the 'image_id' {shorten(image_id)}, which must be an integer or text"
    if not is_category_id(category_id, evaluated=True):
        return f"has the 'category_id' {shorten(category_id)}, which must be an integer"
    score = prediction.get("score")
    if not (is_number(score) and 0 <= score <= 1):
        return f"has the 'score' {shorten(score)}, which must be in [0, 1]"
    return find_box_problem(prediction.get("bbox"))


def _read_json(path: str, kind: type) -> Any:
    _require(path)
    return read_json(path, kind)


def _read_config(path: str) -> dict[str, Any]:
    config = load_yaml(_read(path), path)
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no dict")
    solver = config.get("SOLVER")
    max_iter = solver.get("MAX_ITER") if isinstance(solver, dict) else None
    if not is_integer(max_iter) or max_iter < 1:
        raise ValueError(f"{path} has the SOLVER.MAX_ITER {shorten(max_iter)}, which must be >= 1")
    return config


def _read(path: str) -> str:
    _require(path)
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _require(path: str) -> None:
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{path} is missing; a training by train_net.py that ended writes it"
        )
