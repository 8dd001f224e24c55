"""Models that `queryinst.export` wrote, run by PyTorch, ONNX Runtime or OpenVINO."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from queryinst_runtime.description import METADATA_KEY, Description, read_description
from queryinst_runtime.openvino_session import OpenVINOSession
from queryinst_runtime.results import Result
from queryinst_runtime.session import Session

from ..config_files import default_cfg
from ..devices import resolve_device

Network = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
SUFFIXES = (".onnx", ".pt2", ".xml")


class TorchSession(Session):
    """A Session whose network PyTorch runs: an exported program, or `QueryInst.forward_core`."""

    def __init__(self, network: Network, description: Description, path: str, device: str = "cpu"):
        """
        Args:
            network: as of `Session.run`, with tensors.
            path: how messages name it.
        """
        self.network = network
        self.device = device
        self._found = description
        super().__init__(path)

    def run(self, images: np.ndarray, image_sizes: np.ndarray) -> list[np.ndarray]:
        """As `Session.run`."""
        with torch.no_grad():
            inputs = (torch.from_numpy(x).to(self.device) for x in (images, image_sizes))
            return [x.cpu().numpy() for x in self.network(*inputs)]

    def _open(self, providers: list[str], num_threads: int) -> Description:
        return self._found


def is_exported(path: str | os.PathLike) -> bool:
    """Whether a path is, by its suffix, of a file that `queryinst.export` writes."""
    return Path(os.fspath(path)).suffix.lower() in SUFFIXES


def open_exported(path: str | os.PathLike, device: str | None = None) -> Session:
    """Open an exported file, by its suffix.

    Args:
        device: "cpu", "cuda", ...; None for a GPU where there is one that the library supports.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `Session`. One line.
    """
    path = os.fspath(path)
    device = device and resolve_device(device, training=False)
    suffix = Path(path).suffix.lower()
    if suffix == ".pt2":
        return open_program(path, device)
    if suffix == ".xml":
        return OpenVINOSession(path)
    return Session(path, providers=_providers(device))


def open_program(path: str, device: str | None = None) -> TorchSession:
    """Open a file of torch.export; errors as `Session`."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file {path}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    extra_files = {METADATA_KEY: ""}
    try:
        # Else torch.export logs a traceback before it raises.
        with _quiet("torch.export"), open(path, "rb") as file:  # not a path of any suffix
            program = torch.export.load(file, extra_files=extra_files)
    except Exception as error:  # of its unzipping, unpickling and schema
        detail = " ".join(str(error).split())[:300]
        raise ValueError(f"torch.export cannot load {path}: {detail}") from None
    description = read_description(extra_files[METADATA_KEY], path)
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    # Its guards would refuse images of one cell of the coarsest level, which the graph computes.
    return TorchSession(program.module(check_guards=False), description, path, device)


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without what a logger has to say."""
    log = logging.getLogger(name)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _providers(device: str | None) -> list[str] | None:
    if device is None:
        return None
    kind = torch.device(device).type
    return ["CPUExecutionProvider"] if kind == "cpu" else [f"{kind.upper()}ExecutionProvider"]


class ExportedModel(nn.Module):
    """An exported file with Detectron2's contract of a model, for its evaluators."""

    def __init__(self, session: Session):
        super().__init__()
        self.session = session

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """As `QueryInst.forward` in evaluation, with the file's threshold.

        Args:
            batched_inputs: "image" (3, H, W) in the file's input format, in 0..255, resized as the
                file says; "height" and "width" of the output.
        """
        about = self.session.description
        images, sizes = [], []
        for x in batched_inputs:
            pixels = x["image"].permute(1, 2, 0).cpu().numpy().round().astype(np.uint8)
            images.append(pixels if about.input_format == "RGB" else pixels[:, :, ::-1])
            height, width = pixels.shape[:2]
            sizes.append((x.get("height", height), x.get("width", width)))
        results = self.session.detect(images, about.score_threshold, sizes) if images else []
        return [{"instances": to_instances(result)} for result in results]


def cfg_of(about: Description) -> CfgNode:
    """The configuration under which Detectron2's loaders give what `ExportedModel` takes.

    It has the keys of the input and of the outputs; DATASETS.TEST is empty.
    """
    cfg = default_cfg()
    cfg.INPUT.FORMAT = about.input_format
    cfg.INPUT.MIN_SIZE_TEST = about.min_size_test
    cfg.INPUT.MAX_SIZE_TEST = about.max_size_test
    cfg.INPUT.RESIZE_WITH = about.resize_with
    cfg.MODEL.META_ARCHITECTURE = "QueryInst"
    cfg.MODEL.MASK_ON = about.has_masks
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = list(about.pixel_mean), list(about.pixel_std)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = about.num_classes
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = about.score_threshold
    cfg.TEST.DETECTIONS_PER_IMAGE = about.max_detections
    return cfg


def to_instances(result: Result) -> Instances:
    """A Result as Detectron2's Instances, on the CPU."""
    instances = Instances(result.image_size)
    instances.pred_boxes = Boxes(torch.from_numpy(result.boxes))
    instances.scores = torch.from_numpy(result.scores)
    instances.pred_classes = torch.from_numpy(result.classes)
    instances.query_idx = torch.from_numpy(result.query_idx)
    if result.has_masks:
        instances.pred_masks = torch.from_numpy(result.masks)
    return instances
