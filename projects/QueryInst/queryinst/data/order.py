"""The order of images in a training: a function of the seed and the position, and nothing else."""

import itertools
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .seeds import ORDER, SUBSET, generator_at


class Draw(NamedTuple):
    """One image of the endless stream; `epoch` and `offset` are its position."""

    epoch: int
    offset: int  # within the epoch
    image: int  # index into the data set


class Place(NamedTuple):
    """Where the stream stands between two batches."""

    epoch: int  # of the next image
    offset: int
    held: tuple[tuple[int, int], ...] = ()  # positions of images drawn, but not yet in a batch


class ImageOrder:
    """An endless stream of images, epoch after epoch, each of which is shuffled.

    It stands for Detectron2's TrainingSampler, RandomSubsetTrainingSampler and
    RepeatFactorTrainingSampler, whose streams can only be drawn from their start.
    """

    def __init__(
        self,
        groups: Sequence[int],
        *,
        repeat_factors: np.ndarray | None = None,
        subset_ratio: float = 1.0,
    ):
        """
        Args:
            groups: for each image of the data set, the group that its batches stay within.
            repeat_factors: (images,) >= 0; how often an epoch holds an image, on average.
            subset_ratio: share of the images that takes part, drawn once.

        Raises:
            ValueError: no image takes part.
        """
        self.groups = groups
        self._repeat_factors = repeat_factors
        self._subset_size = int(len(groups) * subset_ratio)
        if not 0 < self._subset_size <= len(groups):
            raise ValueError(
                f"{subset_ratio} of {len(groups)} images are {self._subset_size}, which must be "
                f"between 1 and all; set DATALOADER.RANDOM_SUBSET_RATIO"
            )
        if repeat_factors is not None and not (repeat_factors.min() >= 0 < repeat_factors.max()):
            raise ValueError(
                f"the images' repeat factors lie in [{repeat_factors.min():g}, "
                f"{repeat_factors.max():g}]; none may be negative, nor all be 0; set "
                "DATASETS.TRAIN_REPEAT_FACTOR or DATALOADER.REPEAT_THRESHOLD"
            )

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """The images of an epoch in their order, as indices (n,)."""
        generator = generator_at(seed, ORDER, epoch)
        images = np.arange(len(self.groups))
        if self._repeat_factors is not None:
            whole = np.floor(self._repeat_factors)
            one_more = generator.random(len(images)) < self._repeat_factors - whole
            images = images.repeat(whole.astype(np.int64) + one_more)
        elif self._subset_size < len(images):
            images = generator_at(seed, SUBSET).permutation(images)[: self._subset_size]
        return generator.permutation(images)

    def checksum(self, seed: int) -> int:
        """Of the first epoch: equal for equal orders."""
        return zlib.crc32(self.epoch(seed, 0).astype("<i8").tobytes())

    def place_after(self, seed: int, num: int) -> Place:
        """Where the stream stands after `num` images."""
        if self._repeat_factors is None:
            return Place(*divmod(num, self._subset_size))
        for epoch in itertools.count():
            length = len(self.epoch(seed, epoch))
            if num < length:
                break
            num -= length
        return Place(epoch, num)

    def stream(self, seed: int, epoch: int = 0, offset: int = 0) -> Iterator[Draw]:
        """All images from a position on."""
        for current in itertools.count(epoch):
            images = self.epoch(seed, current).tolist()
            for position in range(offset, len(images)):
                yield Draw(current, position, images[position])
            offset = 0

    def batches(
        self, seed: int, place: Place, images_per_process: int, world_size: int
    ) -> Iterator[tuple[list[list[Draw]], Place]]:
        """The batches from `place` on, each with the place behind it.

        Whenever `images_per_process` images of one group have come together, they are the next
        process's share; a batch has one for each process.
        """
        held = deque(self._held(seed, place))
        stream = self.stream(seed, place.epoch, place.offset)
        buckets: dict[int, list[Draw]] = {}
        shares: list[list[Draw]] = []
        epoch, offset = place.epoch, place.offset
        while True:
            if held:
                draw = held.popleft()
            else:
                draw = next(stream)
                epoch, offset = draw.epoch, draw.offset + 1
            bucket = buckets.setdefault(self.groups[draw.image], [])
            bucket.append(draw)
            if len(bucket) == images_per_process:
                shares.append(bucket[:])
                bucket.clear()
            if len(shares) == world_size:
                rest = sorted(itertools.chain(held, *buckets.values()))
                yield self._deal(shares), Place(epoch, offset, tuple(x[:2] for x in rest))
                shares = []

    def _deal(self, shares: list[list[Draw]]) -> list[list[Draw]]:
        """Deal the images of each group to its processes in turn.

        So the n-th parts of all processes' shares (SOLVER.ACCUMULATE_STEPS) are together what one
        process has as the n-th part of the same batch.
        """
        ranks: dict[int, list[int]] = {}
        for rank, share in enumerate(shares):
            ranks.setdefault(self.groups[share[0].image], []).append(rank)
        dealt = list(shares)
        for members in ranks.values():
            images = [draw for rank in members for draw in shares[rank]]
            for first, rank in enumerate(members):
                dealt[rank] = images[first :: len(members)]
        return dealt

    def _held(self, seed: int, place: Place) -> list[Draw]:
        epochs = {epoch: self.epoch(seed, epoch) for epoch in {x[0] for x in place.held}}
        return [Draw(epoch, offset, int(epochs[epoch][offset])) for epoch, offset in place.held]
