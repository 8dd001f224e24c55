"""What an exported file says of itself: the JSON under the key ``queryinst``."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

METADATA_KEY = "queryinst"  # of ONNX's metadata_props, OpenVINO's rt_info and .pt2's extra files
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Description:
    """How to prepare images for an exported network, and where it comes from.

    Attributes:
        thing_classes: names by class index; () if the checkpoint had none.
        num_classes: how many classes the network tells apart.
        dataset_id_map: class index by category id of the training data; {} if unknown.
        input_format: "RGB" or "BGR", the order of the network's channels.
        pixel_mean, pixel_std: of each channel, for pixels in 0..255.
        min_size_test, max_size_test: the short side that images are resized to, unless the long
            side would exceed the second; pixels. A short side of 0 keeps their size.
        resize_with: "PIL" or "OPENCV".
        size_divisibility: padded heights and widths are multiples of it.
        size: height, width of all padded images; None if both are open.
        max_detections: of an image.
        score_threshold: detections must exceed it.
        has_masks: False for a box detector.
        precision: "fp32", "fp16" or "int8"; inputs and outputs are float32 in all.
        source, digest: name and sha256 of the checkpoint; "" if it was no file.
        licence, attribution, training_data: as the checkpoint's meta; "" if it has none.
        queryinst_version: which wrote the file.
        tolerance: what the check of the export found, by quantity.
    """

    thing_classes: tuple[str, ...]
    num_classes: int
    input_format: str
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    min_size_test: int
    max_size_test: int
    resize_with: str
    size_divisibility: int
    size: tuple[int, int] | None
    max_detections: int
    score_threshold: float
    has_masks: bool
    precision: str
    source: str = ""
    digest: str = ""
    licence: str = ""
    attribution: str = ""
    training_data: str = ""
    queryinst_version: str = ""
    dataset_id_map: dict[int, int] = field(default_factory=dict)
    tolerance: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """As text, with the version of the format."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)})

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The id of each class in the data set that the model was trained on; () if unknown."""
        return category_ids_of(self.dataset_id_map, self.num_classes)


def category_ids_of(dataset_id_map: Mapping[int, int], num_classes: int) -> tuple[int, ...]:
    """{id in the data set: class index} -> the id of each class; () if not every class has one."""
    by_class = {index: key for key, index in dataset_id_map.items()}
    if sorted(by_class) != list(range(num_classes)):
        return ()
    return tuple(by_class[index] for index in range(num_classes))


def read_description(text: str | None, label: str) -> Description:
    """The description in an exported file.

    Args:
        text: the value under METADATA_KEY; None if the file has no such key.
        label: how messages name the file.

    Raises:
        ValueError: it has none, or one that this version does not read. One line.
    """
    if not text:
        raise ValueError(
            f"{label} has no metadata under {METADATA_KEY!r}: it is not from queryinst export"
        )
    try:
        values = json.loads(text)
        version = values.pop("format_version")
        if version > FORMAT_VERSION:
            raise ValueError(f"format version {version}, this version reads {FORMAT_VERSION}")
        return _from_values(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        detail = " ".join(str(error).split())[:200]
        raise ValueError(f"{label}: its metadata cannot be read ({detail})") from None


def _from_values(values: dict[str, Any]) -> Description:
    known = {item.name for item in fields(Description)}
    values = {key: value for key, value in values.items() if key in known}
    for key in ("thing_classes", "pixel_mean", "pixel_std", "size"):
        if values[key] is not None:
            values[key] = tuple(values[key])
    values["dataset_id_map"] = {
        int(key): int(value) for key, value in values.get("dataset_id_map", {}).items()
    }
    return Description(**values)
