"""How many objects the model looks for, where it begins to, and how many it reports."""

from math import ceil

import numpy as np

from .sizes import Sizes
from .statistics import DataStatistics
from .structures import Derived, Start, Wishes

MANY_OBJECTS = 60  # in an image, from which on the published model with 300 queries is chosen
MOST_QUERIES = 900
LEAST_QUERIES = 30  # of random weights
COCO_DETECTIONS = 100
_SMALL_ROOM = 1.5  # queries to an object, below which a small model gets more


def derive_queries(
    train: DataStatistics, val: DataStatistics, start: Start, sizes: Sizes, wishes: Wishes
) -> list[Derived]:
    """Keys of MODEL.QUERYINST, and TEST.DETECTIONS_PER_IMAGE."""
    in_training = train.most_in_window(sizes.window) if sizes.window else train.most_objects
    needed = max(in_training, val.most_objects)
    num, keys = _num_queries(needed, start, wishes)
    brings_boxes = start.kind != "none" and num == start.num_queries
    if not brings_boxes:
        keys.append(_grid(train, sizes))
    return [
        *keys,
        *_denoising(train, start, in_training, num),
        Derived(
            "MODEL.QUERYINST.NMS_THRESH_TEST",
            0.7,
            "queries learn last not to repeat each other",
        ),
        _detections(needed, num, len(train.class_names)),
    ]


def _num_queries(needed: int, start: Start, wishes: Wishes) -> tuple[int, list[Derived]]:
    enough = min(50 * ceil(1.25 * needed / 50), MOST_QUERIES)
    room = _SMALL_ROOM if start.is_small and start.kind == "file" else 1
    if wishes.queries:
        num, why = wishes.queries, "as asked for"
    elif start.kind == "none":
        num = min(max(LEAST_QUERIES, 10 * ceil(1.5 * needed / 10)), MOST_QUERIES)
        why = f"1.5 times the most objects at once, {needed}; at least 30"
    elif room * needed <= start.num_queries or enough <= start.num_queries:
        num, why = start.num_queries, f"those of the weights; at most {needed} objects at once"
    else:
        num = enough
        why = f"up to {needed} objects at once, many for the {start.num_queries} of the weights"
    if needed > num:
        why += f"; of {needed} objects at once only {num} can be found: cut images into tiles"
    keys = [Derived("MODEL.QUERYINST.NUM_QUERIES", num, why)]
    if start.kind != "none" and num != start.num_queries:
        why = "not the weights' number: queries start anew"
        keys.append(Derived("MODEL.QUERYINST.ALLOW_UNLOADED", ("initial_queries",), why))
    return num, keys


def _grid(train: DataStatistics, sizes: Sizes) -> Derived:
    relative = train.sizes * sizes.scale / sizes.input_side
    low, small, median, large, high = np.percentile(relative, (10, 25, 50, 75, 90))
    wanted = (small, large) if high > 4 * low else (median,)
    grid = tuple(dict.fromkeys(round(float(np.clip(x, 0.05, 0.5)), 2) for x in wanted))
    return Derived(
        "MODEL.QUERYINST.INITIAL_GRID_SIZES",
        grid,
        "about the size of the objects, in sides of the input",
    )


def _denoising(
    train: DataStatistics, start: Start, in_training: int, num_queries: int
) -> list[Derived]:
    groups = 2 if start.kind == "none" else max(start.denoising_groups, 1)
    usual = int(np.percentile(train.objects_per_image, 90)) if train.num_images else 0
    queries = min(max(10, min(usual, in_training, 40)), num_queries)
    return [
        Derived(
            "MODEL.QUERYINST.DENOISING_GROUPS",
            groups,
            "boxes near the objects for every stage from the start",
        ),
        Derived(
            "MODEL.QUERYINST.DENOISING_QUERIES",
            queries,
            f"90 % of the images have at most {usual} objects; 10 to 40",
        ),
    ]


def _detections(most: int, num_queries: int, num_classes: int) -> Derived:
    wanted = max(COCO_DETECTIONS, most)
    value = min(wanted, max(COCO_DETECTIONS, num_queries * num_classes))
    why = "COCO's 100" if value == COCO_DETECTIONS else "more than COCO's 100"
    return Derived("TEST.DETECTIONS_PER_IMAGE", value, f"{why}; at most {most} objects at once")
