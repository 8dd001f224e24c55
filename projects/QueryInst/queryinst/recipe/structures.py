"""What the modules of the recipe hand to each other: what it starts from, what it says of a key."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

StartKind = Literal["zoo", "file", "none"]
SMALL_WIDTH = 128  # channels, up to which a model is small


@dataclass(frozen=True)
class Start:
    """The model that a training starts from.

    Attributes:
        kind: "zoo", published weights; "file", a checkpoint of this project; "none", random.
        name: of the zoo, or the path; "" for random weights.
        short_side, long_side: pixels, INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST of these weights.
        num_queries: that the weights have, or that random ones get at least.
        width: MODEL.QUERYINST.EMBED_DIM.
        num_stages: MODEL.QUERYINST.NUM_STAGES.
        base_lr: that it was trained with, in batches of `batch` images.
        denoising_groups: that it was trained with.
    """

    kind: StartKind
    name: str
    short_side: int
    long_side: int
    num_queries: int
    width: int
    num_stages: int
    base_lr: float
    batch: int
    denoising_groups: int = 0

    @property
    def is_small(self) -> bool:
        """One that a processor trains in minutes, as the demo's is; not a published size."""
        return self.width <= SMALL_WIDTH


class Machine(NamedTuple):
    """What computes.

    Attributes:
        device: "cuda", "cuda:1", "cpu".
        memory: bytes at hand there; None if unknown.
        cores: of the processor, that this process may use.
    """

    device: str
    memory: int | None
    cores: int

    @property
    def has_gpu(self) -> bool:
        return self.device != "cpu"


class Wishes(NamedTuple):
    """What the user asks for; None leaves it to the recipe. `iterations` wins over `epochs`."""

    epochs: int | None = None
    iterations: int | None = None
    batch: int | None = None
    queries: int | None = None
    eval_period: int | None = None


@dataclass(frozen=True)
class Request:
    """What the user asked for; None where nothing was said.

    Attributes:
        digests: sha256 of the annotations to train on and of those held out, in COCO's format;
            the second is "" where a part of the first is held out.
    """

    digests: tuple[str, str]
    model: str | None
    epochs: int | None
    iterations: int | None
    batch: int | None
    opts: tuple[str, ...] = field(default=())


class Derived(NamedTuple):
    """A key of the configuration, the value that suits the data, and why.

    Attributes:
        reason: a few words for a person, without the value.
    """

    key: str
    value: Any
    reason: str
