"""What every training writes its metrics to."""

import os

from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter
from detectron2.utils.file_io import PathManager

from .hooks import StageSumPrinter
from .writing import FileWriter, end_torn_line


def build_writers(output_dir: str, max_iter: int) -> list[EventWriter]:
    """Progress on the terminal, OUTPUT_DIR/metrics.json and TensorBoard's events."""
    PathManager.mkdirs(output_dir)
    metrics = os.path.join(output_dir, "metrics.json")
    end_torn_line(metrics)
    events = os.path.join(output_dir, "events.out.tfevents.*")
    return [
        StageSumPrinter(max_iter),
        FileWriter(JSONWriter(metrics), metrics),
        FileWriter(TensorboardXWriter(output_dir), events),
    ]
