"""Masks in few bytes: scores on a small grid, pasted when needed, and COCO's run-length codes."""

from collections.abc import Iterable, Sequence

import numpy as np

Rle = dict[str, list[int] | str]  # {"size": [height, width], "counts": ...}, as in COCO's JSON
THRESHOLD = 0.5


def paste_crop(
    scores: np.ndarray, box: Sequence[float], height: int, width: int
) -> tuple[int, int, np.ndarray]:
    """A mask within the pixels that its box reaches, as Detectron2's `paste_masks_in_image`.

    Args:
        scores: (S, S) after the sigmoid, of the whole box.
        box: XYXY in pixels of the image, not clipped.
        height, width: of the image.

    Returns:
        top, left, and (h, w) bool: the mask of the image from there on. It may be empty.
    """
    left, right, columns = _interpolation(box[0], box[2], scores.shape[1], width)
    top, bottom, rows = _interpolation(box[1], box[3], scores.shape[0], height)
    if right <= left or bottom <= top:
        return top, left, np.zeros((0, 0), bool)
    return top, left, rows @ scores.astype(np.float32) @ columns.T >= THRESHOLD


def _interpolation(start: float, end: float, num: int, size: int) -> tuple[int, int, np.ndarray]:
    """First and last pixel that a side of a box reaches, and (pixels, num) bilinear weights."""
    start, end = float(start), float(end)
    first = int(max(np.floor(start) - 1, 0))
    last = int(min(np.ceil(end) + 1, size))
    pixels = np.arange(first, max(first, last), dtype=np.float32) + np.float32(0.5)
    place = (pixels - start) / max(end - start, 1e-12) * num - 0.5
    weights = np.maximum(1 - np.abs(place[:, None] - np.arange(num)), 0)
    return first, last, weights.astype(np.float32)


def encode_rle(mask: np.ndarray) -> Rle:
    """(H, W) bool -> COCO's compressed run-length code, its counts a str."""
    return encode_crop(0, 0, mask, *mask.shape)


def encode_crop(top: int, left: int, mask: np.ndarray, height: int, width: int) -> Rle:
    """As `encode_rle`, of a mask within an empty image.

    Args:
        top, left: of the first pixel of `mask` in the image.
        mask: (h, w) bool.
        height, width: of the image.
    """
    # Along each column, a run begins where a pixel is set after one that is not, and ends so.
    padded = np.pad(np.asarray(mask, bool), ((1, 1), (0, 0)))
    columns, rows = np.nonzero((padded[1:] != padded[:-1]).T)
    changes = (columns + left) * height + (rows + top)
    # A run that ends below the image and one that begins at the top of the next column are one.
    again = np.zeros(len(changes) + 1, bool)
    again[1:-1] = changes[1:] == changes[:-1]
    changes = changes[~(again[1:] | again[:-1])]
    counts = np.diff(np.concatenate([[0], changes, [height * width]])).tolist()
    if len(changes) and counts[-1] == 0:
        counts.pop()
    return {"size": [height, width], "counts": _compress(counts)}


def decode_rle(rle: Rle) -> np.ndarray:
    """COCO's run-length code, compressed or a list of counts -> (H, W) bool.

    Raises:
        ValueError: its counts are not of an image of its size.
    """
    height, width = (int(side) for side in rle["size"])
    counts = rle["counts"]
    if isinstance(counts, (str, bytes)):
        counts = _decompress(counts if isinstance(counts, str) else counts.decode("ascii"))
    lengths = np.asarray(counts, np.int64)
    if (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError(f"the counts of a run-length code are not of {height} x {width} pixels")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def _compress(counts: Sequence[int]) -> str:
    """Each count by its difference to the one before the last, in groups of five bits.

    The sixth bit of a character says that another follows; 48 is added to all. After pycocotools'
    `rleToString`.
    """
    characters = []
    for index, count in enumerate(counts):
        rest = count - counts[index - 2] if index > 2 else count
        is_last = False
        while not is_last:
            bits, rest = rest & 31, rest >> 5
            is_last = rest == (-1 if bits & 16 else 0)
            characters.append(chr((bits if is_last else bits | 32) + 48))
    return "".join(characters)


def _decompress(text: str) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # a negative difference
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts


def bounds_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of the true pixels of (H, W) bool; all 0 if there are none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def place(crops: Iterable[tuple[int, int, np.ndarray]], height: int, width: int) -> np.ndarray:
    """Crops with their top and left -> (n, height, width) bool."""
    crops = list(crops)
    masks = np.zeros((len(crops), height, width), bool)
    for mask, (top, left, crop) in zip(masks, crops):
        mask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return masks
