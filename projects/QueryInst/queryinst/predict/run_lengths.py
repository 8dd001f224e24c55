"""Run-length codes as pycocotools gives them, and as JSON takes them."""

from queryinst_runtime.masks import Rle


def as_text(rle: dict) -> Rle:
    """A code of pycocotools' with its counts as a str, as JSON takes it."""
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in rle["size"]], "counts": text}
