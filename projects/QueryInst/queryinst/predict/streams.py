"""From many inputs to their results, one after the other, past those that fail."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from queryinst_runtime.results import Result

from .inputs import Frame, Source, read_frames
from .model import Model
from .tracking import Tracker

LeftOut = Callable[[str, Exception], None]
# What an image can cause: damage, its size, memory of the machine and of the GPU.
_FAILURES = (ValueError, OSError, RuntimeError, MemoryError)


def frames_of(sources: Iterable[Source], max_pixels: int, left_out: LeftOut) -> Iterator[Frame]:
    """All images, and all videos' frames.

    Args:
        max_pixels: of an image.
        left_out: called with the name of a source that cannot be read, or not to its end, and why.
    """
    for source in sources:
        try:
            yield from read_frames(source, max_pixels)
        except (*_FAILURES, ImportError) as error:
            left_out(source.name, error)


def predict_frames(
    model: Model, frames: Iterable[Frame], left_out: LeftOut, *, batch: int = 1, **options: Any
) -> Iterator[tuple[Frame, Result]]:
    """The result of each frame. No more than `batch` frames are held at once.

    Args:
        left_out: called with the name of a frame that cannot be predicted, and why; what is in a
            batch with it is predicted alone.
        options: of `Model.predict`.
    """
    left = iter(frames)
    while part := list(islice(left, batch)):
        try:
            images = [frame.pixels for frame in part]
            yield from zip(part, model.predict(images, batch=batch, **options))
        except _FAILURES as error:
            if len(part) == 1:
                left_out(part[0].name, error)
                continue
            yield from predict_frames(model, part, left_out, **options)


def tracked(predicted: Iterable[tuple[Frame, Result]]) -> Iterator[tuple[Frame, Result]]:
    """The same, with `track_ids` in the results of videos; each video has its own."""
    source, tracker = None, Tracker()
    for frame, result in predicted:
        if frame.source != source:
            source, tracker = frame.source, Tracker()
        yield frame, result if frame.number is None else tracker.track(result)


class BestScore:
    """The best score of all objects, as long as none exceeds the threshold.

    Attributes:
        text: the best score, its class and where it is; "" if it is not known.
    """

    MAX_LOOKS = 10  # frames that are predicted once more

    def __init__(self, model: Model, **options: Any):
        """
        Args:
            options: of `Model.predict`.
        """
        self._model, self._options = model, options
        self._best, self._num_looks, self._is_needed = -1.0, 0, True
        self.text = ""

    def look(self, frame: Frame, result: Result) -> str:
        """Predict once more without a threshold if there is nothing.

        Returns:
            The best score of this frame and its class, or "".
        """
        self._is_needed = self._is_needed and not len(result)
        if not self._is_needed or self._num_looks == self.MAX_LOOKS:
            return ""
        self._num_looks += 1
        found = self._model.predict(frame.pixels, **{**self._options, "score": 0.0})
        if not len(found):
            return ""
        best = found[int(found.scores.argmax())]
        text = f"{best.scores[0]:.3g} ({best.names[0]})"
        if best.scores[0] > self._best:
            self._best, self.text = float(best.scores[0]), f"{text} in {frame.name}"
        return text
