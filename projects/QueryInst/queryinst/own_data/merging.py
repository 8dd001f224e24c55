"""Makes one data set of several."""

from collections.abc import Sequence

from ..data.coco_folder import SPLITS
from .contents import Content, Photo


def merge_contents(contents: Sequence[Content]) -> Content:
    """Parts of one name become one, as do classes of one name.

    A part of another name than "train", "val" and "test" is one to train on. Images stay apart,
    whatever their names are.
    """
    classes = list(dict.fromkeys(name for content in contents for name in content.classes))
    parts: dict[str, list[Photo]] = {}
    for content in contents:
        places = [classes.index(name) for name in content.classes]
        for name, photos in content.parts.items():
            part = parts.setdefault(name if name in SPLITS else "train", [])
            part += [_renumbered(photo, places) for photo in photos]
    return Content(classes, {name: parts[name] for name in SPLITS if name in parts})


def _renumbered(photo: Photo, places: Sequence[int]) -> Photo:
    annotations = [{**x, "category_id": places[x["category_id"]]} for x in photo.annotations]
    return photo._replace(annotations=annotations)
