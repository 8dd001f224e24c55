import tracemalloc

import numpy as np

from queryinst_runtime import Result

SIZE = 6000, 8000  # height, width
RNG = np.random.default_rng(0)


def make_result(num=100):
    corners = RNG.uniform(0, [7000, 5000], (num, 2))
    boxes = np.concatenate([corners, corners + RNG.uniform(50, 900, (num, 2))], 1)
    return Result(
        image_size=SIZE,
        boxes=boxes.astype(np.float32),
        scores=np.linspace(1, 0.5, num, dtype=np.float32),
        classes=np.zeros(num, np.int64),
        query_idx=np.arange(num),
        class_names=("thing",),
        mask_scores=RNG.random((num, 28, 28), dtype=np.float32),
        mask_boxes=boxes.astype(np.float32),
    )


def test_result_of_a_large_image_stays_small_in_memory():
    """All masks at once would take 4.8 GB. A picture of the image takes 0.14 GB."""
    result = make_result()
    tracemalloc.start()
    entries, outlines = result.to_coco(), result.to_polygons()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(entries) == len(outlines) == 100 and all(entry["area"] > 0 for entry in entries)
    assert peak < 400e6
