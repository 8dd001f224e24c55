"""What a prediction is written as: pictures, label images, cut-outs, and rows of objects."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from queryinst_runtime.polygons import contours_of
from queryinst_runtime.results import Result

from ..data.video_writing import VideoWriter
from .inputs import Frame, Source
from .naming import make_folder, safe_name, targets_of

_PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_COLUMNS = (
    *("file", "frame", "object", "class", "category_id", "score"),
    *("x1", "y1", "x2", "y2", "area", "track_id"),
)


class Item(NamedTuple):
    """An image, or a frame, with its objects.

    Attributes:
        stem: the source's (`naming.unique_stems`).
    """

    frame: Frame
    stem: str
    result: Result


class Writer(Protocol):
    """Writes items of one kind below an output folder."""

    def targets(self, stems: Mapping[Source, str]) -> list[Path]:
        """What it writes for these sources: files, and folders for the files of one source."""
        ...

    def add(self, item: Item) -> None:
        """Write an item, or a part of it.

        Raises:
            OSError: it cannot be written.
        """
        ...

    def close(self) -> None:
        """Write the rest."""
        ...


def make_writers(kinds: Sequence[str], folder: Path, sources: Sequence[Source]) -> list[Writer]:
    """A writer for each kind, in their order.

    Args:
        kinds: of "picture", "coco", "jsonl", "masks", "crops" and "csv".

    Raises:
        ImportError: one of them needs a package that is not installed.
    """
    from .coco_files import CocoWriter  # which is a Writer

    makers: dict[str, Callable[[], Writer]] = {
        "picture": lambda: PictureWriter(folder),
        "coco": lambda: CocoWriter(folder, sources),
        "jsonl": lambda: JsonLinesWriter(folder),
        "masks": lambda: MaskWriter(folder),
        "crops": lambda: CropWriter(folder),
        "csv": lambda: CsvWriter(folder),
    }
    return [makers[kind]() for kind in kinds]


class PictureWriter:
    """STEM and the suffix of the image, or .png; STEM.mp4 of a video."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._video: VideoWriter | None = None

    def targets(self, stems: Mapping[Source, str]) -> list[Path]:
        """As `Writer.targets`."""
        return [self._path_of(source, stem) for source, stem in stems.items()]

    def add(self, item: Item) -> None:
        """As `Writer.add`."""
        frame, path = item.frame, self._path_of(item.frame.source, item.stem)
        if frame.number is None:
            item.result.save(path)
            return
        if self._video is None or self._video.path != str(path):
            self.close()
            self._video = VideoWriter(path, frame.rate)
        self._video.write(np.asarray(item.result.draw(enlarge=False)), frame.time)

    def close(self) -> None:
        """As `Writer.close`: the video that is being written gets its end."""
        if self._video is not None:
            self._video.close()
        self._video = None

    def _path_of(self, source: Source, stem: str) -> Path:
        return self.folder / f"{stem}{'.mp4' if source.is_video else _picture_suffix(source)}"


def _picture_suffix(source: Source) -> str:
    suffix = Path(source.path).suffix
    return suffix if suffix.lower() in _PICTURE_SUFFIXES else ".png"


class MaskWriter:
    """masks/STEM.png with 16 bits a pixel: 0 where no object is, else the object's number.

    Objects are numbered from 1 by falling score; where two overlap, the pixel is the better one's.
    """

    def __init__(self, folder: Path):
        self.folder = folder / "masks"

    def targets(self, stems: Mapping[Source, str]) -> list[Path]:
        """As `Writer.targets`."""
        return targets_of(stems, self.folder, ".png")

    def add(self, item: Item) -> None:
        """As `Writer.add`."""
        labels = np.zeros(item.result.image_size, np.uint16)
        for index in reversed(range(len(item.result))):
            top, left, mask = item.result.crop(index)
            labels[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = index + 1
        path = file_of(item, self.folder, ".png")
        make_folder(path.parent)
        Image.fromarray(labels).save(path)

    def close(self) -> None:
        """As `Writer.close`."""


class CropWriter:
    """crops/STEM/OBJECT-CLASS.png: each object in its mask's bounds, transparent outside of it.

    Of a video, crops/STEM/FRAME-OBJECT-CLASS.png. An object without a single pixel has no file.
    """

    def __init__(self, folder: Path):
        self.folder = folder / "crops"

    def targets(self, stems: Mapping[Source, str]) -> list[Path]:
        """As `Writer.targets`."""
        return [self.folder / stem for stem in stems.values()]

    def add(self, item: Item) -> None:
        """As `Writer.add`."""
        folder = self.folder / item.stem
        make_folder(folder)
        frame = "" if item.frame.number is None else f"{item.frame.number:06d}-"
        for index, name in enumerate(item.result.names):
            cut_out = cut(item.frame.pixels, *item.result.crop(index))
            if cut_out.size:
                path = folder / f"{frame}{index + 1:03d}-{safe_name(name, 60)}.png"
                Image.fromarray(cut_out).save(path)

    def close(self) -> None:
        """As `Writer.close`."""


def cut(pixels: np.ndarray, top: int, left: int, mask: np.ndarray) -> np.ndarray:
    """The object in the bounds of its mask as (h, w, 4) uint8, RGBA.

    Args:
        pixels: (H, W, 3) uint8, RGB.
        top, left, mask: as of `Result.crop`.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros((0, 0, 4), np.uint8)
    mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    top, left = top + int(rows[0]), left + int(columns[0])
    color = pixels[top : top + mask.shape[0], left : left + mask.shape[1]]
    return np.dstack([color, mask.astype(np.uint8) * 255])


class JsonLinesWriter:
    """objects.jsonl, one object a line: file, class, score, box, run-length code, polygons."""

    def __init__(self, folder: Path):
        """
        Raises:
            ImportError: OpenCV, which makes polygons, is not installed.
        """
        contours_of(0, 0, np.zeros((0, 0), bool))
        self._path = folder / "objects.jsonl"
        self._file: Any = None

    def targets(self, stems: Mapping[Source, str]) -> list[Path]:
        """As `Writer.targets`."""
        return [self._path]

    def add(self, item: Item) -> None:
        """As `Writer.add`."""
        self._file = self._file or open(self._path, "w", encoding="utf-8")
        for index, row in enumerate(rows_of(item)):
            box = [row.pop(name) for name in ("x1", "y1", "x2", "y2")]
            known = {name: value for name, value in row.items() if value is not None}
            known["box"] = box
            if item.result.has_masks:
                known["rle"] = item.result.rle(index)
                outlines = contours_of(*item.result.crop(index))
                known["polygons"] = [outline.ravel().tolist() for outline in outlines]
            self._file.write(f"{json.dumps(known)}\n")
        self._file.flush()

    def close(self) -> None:
        """As `Writer.close`."""
        self._file = self._file or open(self._path, "w", encoding="utf-8")
        self._file.close()


class CsvWriter:
    """objects.csv, one object a line."""

    def __init__(self, folder: Path):
        self._path = folder / "objects.csv"
        self._file: Any = None

    def targets(self, stems: Mapping[Source, str]) -> list[Path]:
        """As `Writer.targets`."""
        return [self._path]

    def add(self, item: Item) -> None:
        """As `Writer.add`."""
        self._open()
        csv.DictWriter(self._file, _COLUMNS).writerows(rows_of(item))
        self._file.flush()

    def close(self) -> None:
        """As `Writer.close`."""
        self._open()
        self._file.close()

    def _open(self) -> None:
        if self._file is None:
            # Names of files need not be UTF-8.
            self._file = open(
                self._path, "w", encoding="utf-8", errors="surrogateescape", newline=""
            )
            csv.DictWriter(self._file, _COLUMNS).writeheader()


def rows_of(item: Item) -> list[dict[str, Any]]:
    """A dict of `_COLUMNS` for each object; what does not apply is None.

    "object" is its number, as in `MaskWriter`; boxes are XYXY in pixels; "area" is the mask's.
    """
    rows = []
    result = item.result
    for index, (entry, box) in enumerate(zip(result.to_coco(), result.boxes.tolist())):
        track_id = None if result.track_ids is None else int(result.track_ids[index])
        values = (
            *(item.frame.source.name, item.frame.number, index + 1, result.names[index]),
            *(entry["category_id"], round(entry["score"], 6)),
            *(round(side, 3) for side in box),
            *(entry["area"], track_id),
        )
        rows.append(dict(zip(_COLUMNS, values, strict=True)))
    return rows


def file_of(item: Item, folder: Path, suffix: str) -> Path:
    """STEM and suffix in a folder, or STEM/000000 and suffix for a frame."""
    if item.frame.number is None:
        return folder / f"{item.stem}{suffix}"
    return folder / item.stem / f"{item.frame.number:06d}{suffix}"
