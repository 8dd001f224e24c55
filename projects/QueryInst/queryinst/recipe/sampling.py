"""Which images training sees how often, and what is pasted into them."""

import numpy as np

from ..wording import counted
from .statistics import DataStatistics
from .structures import Derived, Machine

_RARE = 0.1  # of the median class's images, below which a class is rare
_MOST_REPEATS = 4
_FEW_IMAGES = 200  # with which copy-paste was measured to gain
_PASTING_ITERATIONS = 800  # from which on


def derive_sampling(train: DataStatistics, machine: Machine, iterations: int) -> list[Derived]:
    """Keys of DATALOADER, and of INPUT what does not depend on sizes."""
    return [
        _empty_images(train),
        *_sampler(train),
        _copy_paste(train, iterations),
        _flip(train),
        _workers(machine),
    ]


def _empty_images(train: DataStatistics) -> Derived:
    key = "DATALOADER.FILTER_EMPTY_ANNOTATIONS"
    empty = train.num_empty
    if not empty:
        return Derived(key, True, "every image has objects")
    images = f"{counted(empty, 'image')} of {train.num_images:,} without objects"
    if 2 * empty > train.num_images:
        return Derived(key, True, f"{images}: most batches would teach nothing else")
    return Derived(key, False, f"{images}: they teach what is none")


def _sampler(train: DataStatistics) -> list[Derived]:
    key = "DATALOADER.SAMPLER_TRAIN"
    counts = train.images_per_class
    present = counts[counts > 0]
    usual = float(np.median(present)) if len(present) else 0.0
    rarest = int(min(present, default=0))
    if len(present) < 2 or rarest >= _RARE * usual:
        why = "one class" if len(train.class_names) == 1 else "no class is much rarer than others"
        return [Derived(key, "TrainingSampler", why)]
    name = train.class_names[int(np.flatnonzero(counts == rarest)[0])]
    share = min(usual, rarest * _MOST_REPEATS**2) / train.num_images
    return [
        Derived(
            key,
            "RepeatFactorTrainingSampler",
            f"{name} is in {counted(rarest, 'image')}, the median class in {usual:,.0f}",
        ),
        Derived(
            "DATALOADER.REPEAT_THRESHOLD",
            float(f"{share:.3g}"),
            f"images of the rarest class come up to {_MOST_REPEATS} times as often",
        ),
    ]


def _copy_paste(train: DataStatistics, iterations: int) -> Derived:
    key = "INPUT.COPY_PASTE"
    if train.num_images > _FEW_IMAGES:
        return Derived(key, 0.0, f"it gained nothing with more than {_FEW_IMAGES} images")
    if iterations < _PASTING_ITERATIONS:
        return Derived(key, 0.0, f"it gains only from {_PASTING_ITERATIONS} iterations on")
    if train.num_images < 2:
        return Derived(key, 0.0, "there is no other image to take objects of")
    return Derived(key, 0.7, f"{counted(train.num_images, 'image')}: objects of others vary them")


def _flip(train: DataStatistics) -> Derived:
    names = {"".join(filter(str.isalpha, name.lower())) for name in train.class_names}
    for name in names:
        if "left" in name and name.replace("left", "right") in names:
            return Derived("INPUT.RANDOM_FLIP", "none", "classes tell left from right")
    return Derived("INPUT.RANDOM_FLIP", "horizontal", "half of the images are mirrored")


def _workers(machine: Machine) -> Derived:
    most = 8 if machine.has_gpu else 1
    number = max(1, min(most, machine.cores - 1))
    return Derived("DATALOADER.NUM_WORKERS", number, f"of {counted(machine.cores, 'core')}")
