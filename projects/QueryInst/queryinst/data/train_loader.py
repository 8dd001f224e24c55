"""The loader of a training, which can start anywhere in the order of images."""

import itertools
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm
from torch import Generator
from torch.utils.data import DataLoader, Dataset

from .copy_paste import copy_paste
from .order import Draw, ImageOrder, Place
from .seeds import IMAGE, seeded_generators

logger = logging.getLogger(__name__)

Mapper = Callable[[dict[str, Any]], dict[str, Any] | None]

# Detectron2's samplers, and the keys that it reads for some, but does not declare.
_WEIGHTED = ("WeightedTrainingSampler", "WeightedCategoryTrainingSampler")
_SUBSET = "RandomSubsetTrainingSampler"
_SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler", _SUBSET, *_WEIGHTED)
_UNDECLARED = {_SUBSET: ("DATALOADER", "RANDOM_SUBSET_RATIO")}
_UNDECLARED |= {name: ("DATASETS", "TRAIN_REPEAT_FACTOR") for name in _WEIGHTED}


def build_train_loader(cfg: CfgNode, mapper: Mapper) -> Iterable[list[dict[str, Any]]]:
    """The training loader of `cfg`.

    Reads DATASETS, DATALOADER, SEED, SOLVER.IMS_PER_BATCH and INPUT.COPY_PASTE, which Detectron2's
    loader does not know.

    A data set that is not a list of dicts gets Detectron2's loader, which starts from its
    beginning when a training resumes.

    Args:
        mapper: from a data set dict to an input of the model; None for an image to leave out. It
            draws from the global generators of Python, NumPy and torch, if at all.

    Raises:
        ValueError: DATALOADER.SAMPLER_TRAIN or its settings are invalid, or INPUT.COPY_PASTE asks
            for objects of images that this loader cannot choose.
    """
    dicts = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    if not isinstance(dicts, list):
        if cfg.INPUT.COPY_PASTE:
            raise ValueError(
                f"INPUT.COPY_PASTE {cfg.INPUT.COPY_PASTE} needs a data set that is a list of dicts,"
                f" not a {type(dicts).__name__}; set it to 0.0"
            )
        return build_detection_train_loader(cfg, mapper=mapper, dataset=dicts)
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    world_size = comm.get_world_size()
    loader = TrainLoader(
        dicts,
        mapper,
        _build_order(cfg, dicts),
        seed=int(seed),
        sampler=cfg.DATALOADER.SAMPLER_TRAIN,
        datasets=tuple(cfg.DATASETS.TRAIN),
        images_per_process=cfg.SOLVER.IMS_PER_BATCH // world_size,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        copy_paste=cfg.INPUT.COPY_PASTE,
    )
    logger.debug(
        f"Using training sampler {cfg.DATALOADER.SAMPLER_TRAIN} with seed {seed}, "
        f"{loader.images_per_process} images per process"
    )
    return loader


def count_objects(dicts: Iterable[dict[str, Any]]) -> int:
    """How many annotations there are that are not crowds."""
    return sum(not y.get("iscrowd", 0) for x in dicts for y in x.get("annotations", ()))


def _build_order(cfg: CfgNode, dicts: list[dict[str, Any]]) -> ImageOrder:
    name, factors, subset_ratio = cfg.DATALOADER.SAMPLER_TRAIN, None, 1.0
    if name not in _SAMPLERS:
        raise ValueError(f"DATALOADER.SAMPLER_TRAIN {name!r} must be one of {', '.join(_SAMPLERS)}")
    section, key = _UNDECLARED.get(name, ("DATALOADER", "SAMPLER_TRAIN"))
    if key not in cfg[section]:
        raise ValueError(
            f"DATALOADER.SAMPLER_TRAIN {name!r} needs {section}.{key}, which Detectron2 does not "
            f"declare; add it to the configuration in a script of your own"
        )
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dicts, cfg.DATALOADER.REPEAT_THRESHOLD
        )
    elif name in _WEIGHTED:
        from detectron2.data.build import _build_weighted_sampler

        sampler = _build_weighted_sampler(cfg, enable_category_balance=name == _WEIGHTED[1])
        factors = sampler._int_part + sampler._frac_part
    elif name == _SUBSET:
        subset_ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
    groups = [0] * len(dicts)
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING:  # by the annotations: no image is read
        groups = [int("width" in x and x["width"] <= x.get("height", 0)) for x in dicts]
    factors = None if factors is None else factors.numpy().astype(np.float64)
    return ImageOrder(groups, repeat_factors=factors, subset_ratio=subset_ratio)


class TrainLoader:
    """An endless iterable of this process's images of each batch.

    What it yields is a function of the seed and the iteration: images of a batch, their order and
    their augmentation do not depend on the number of workers, nor on what was drawn before.
    """

    def __init__(
        self,
        dicts: list[dict[str, Any]],
        mapper: Mapper,
        order: ImageOrder,
        *,
        seed: int,
        sampler: str,
        datasets: tuple[str, ...],
        images_per_process: int,
        num_workers: int,
        copy_paste: float = 0.0,
    ):
        """
        Args:
            seed: >= 0, the same in all processes.
            copy_paste: probability that objects of another image are pasted into an image.
            sampler, datasets: names, by which a checkpoint's state is known to be of this order.
        """
        self.seed = seed
        self.images_per_process = images_per_process
        self.was_restored = False
        self.num_images = len(dicts)
        self.num_objects = count_objects(dicts)
        self._dicts = DatasetFromList(dicts, copy=False)
        self._mapper = mapper
        self._order = order
        self._sampler = sampler
        self._datasets = datasets
        self._num_workers = num_workers
        self._copy_paste = copy_paste
        self._place = Place(0, 0)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """Begin behind the last batch, or where `load_state_dict` says."""
        places: deque[Place] = deque()
        workers, size = self._num_workers, self.images_per_process
        loader = DataLoader(
            _SeededImages(self._dicts, self._mapper, self.seed, self._copy_paste),
            batch_size=None,  # workers map single images, so that none waits for a whole batch
            sampler=self._draws(places),
            num_workers=workers,
            collate_fn=_as_it_is,
            prefetch_factor=max(2, -(-size // workers)) if workers else None,
            generator=Generator(),  # an iterator draws a number; not from the model's generator
        )
        images = iter(loader)
        while True:
            batch = list(itertools.islice(images, size))
            self._place = places.popleft()
            yield batch

    def _draws(self, places: deque[Place]) -> Iterator[Draw]:
        """This process's images one by one; appends the place behind each batch to `places`.

        Runs ahead of the training by what the workers prefetch.
        """
        rank, world_size = comm.get_rank(), comm.get_world_size()
        batches = self._order.batches(self.seed, self._place, self.images_per_process, world_size)
        for shares, place in batches:
            places.append(place)
            yield from shares[rank]

    def state_dict(self) -> dict[str, Any]:
        """The place behind the last batch that was taken, in plain types; equal on all ranks."""
        return {
            "epoch": self._place.epoch,
            "offset": self._place.offset,
            "held": [list(position) for position in self._place.held],
            **self._batch_setup(),
            **self._identity(self.seed),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next iterator at the place of `state`, with its seed.

        Another order of images (another data set or sampler) starts anew, with a warning. Another
        batch or number of processes goes on at the same image, with a warning.

        Raises:
            ValueError: the state is none of this class.
        """
        try:
            seed = int(state["seed"])
            place = Place(
                int(state["epoch"]),
                int(state["offset"]),
                tuple((int(epoch), int(offset)) for epoch, offset in state["held"]),
            )
            if min(seed, *place[:2], *itertools.chain(*place.held)) < 0:
                raise ValueError("a negative position")
            changed = _changes(state, self._identity(seed))
            if not changed:
                next(self._order.batches(seed, place, 1, 1))
        except (IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"no place in an order of images, {error!r}") from error
        self.seed, self.was_restored = seed, True
        if changed:
            logger.warning(
                f"The order of images starts anew, since the data changed: {changed}; "
                f"the checkpoint was at image {place.offset} of epoch {place.epoch}"
            )
            place = Place(0, 0)
        elif changed := _changes(state, self._batch_setup()):
            logger.warning(
                f"Resuming at image {place.offset} of epoch {place.epoch}, after "
                f"{len(place.held)} that were held back, with other batches: {changed}"
            )
        self._place = place

    def start_at(self, iteration: int) -> None:
        """Start where an iteration starts if all before had batches as they are now."""
        num = iteration * self.images_per_process * comm.get_world_size()
        self._place = self._order.place_after(self.seed, num)

    def _batch_setup(self) -> dict[str, Any]:
        return {
            "images_per_process": self.images_per_process,
            "world_size": comm.get_world_size(),
        }

    def _identity(self, seed: int) -> dict[str, Any]:
        """What decides on the order of images."""
        return {
            "datasets": list(self._datasets),
            "num_images": len(self._dicts),
            "sampler": self._sampler,
            "seed": seed,
            "checksum": self._order.checksum(seed),
        }


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs, in words; empty if nothing does."""
    return ", ".join(
        f"{key} was {before.get(key)} and is {value}"
        for key, value in now.items()
        if before.get(key) != value
    )


class _SeededImages(Dataset):
    """Maps each image with generators that are seeded for its position in the order."""

    def __init__(self, dicts: DatasetFromList, mapper: Mapper, seed: int, copy_paste: float):
        self._dicts = dicts
        self._mapper = mapper
        self._seed = seed
        self._copy_paste = copy_paste

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        with seeded_generators(self._seed, IMAGE, draw.epoch, draw.offset):
            image = self._mapper(self._dicts[draw.image])
            if image is not None:
                return self._with_objects_of_another(image)
            for other in random.sample(range(len(self._dicts)), len(self._dicts)):
                if (image := self._mapper(self._dicts[other])) is not None:
                    return image
        raise ValueError(
            f"the mapper of the training loader returns None for all {len(self._dicts)} images"
        )

    def _with_objects_of_another(self, image: dict[str, Any]) -> dict[str, Any]:
        if not self._copy_paste or random.random() >= self._copy_paste:
            return image
        other = self._mapper(self._dicts[random.randrange(len(self._dicts))])
        return image if other is None else copy_paste(image, other)


def _as_it_is(image: Any) -> Any:
    return image
