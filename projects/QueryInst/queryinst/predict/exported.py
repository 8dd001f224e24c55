"""Models that `queryinst.export` wrote, run by PyTorch, ONNX Runtime or OpenVINO."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from queryinst_runtime.description import METADATA_KEY, Description, read_description
from queryinst_runtime.openvino_session import OpenVINOSession
from queryinst_runtime.session import Session

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
