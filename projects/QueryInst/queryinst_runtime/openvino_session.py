"""Predicting with an exported file, by OpenVINO."""

import os

import numpy as np

from .description import METADATA_KEY, Description, read_description
from .session import INPUTS, Session


class OpenVINOSession(Session):
    """A Session of an .xml file with its .bin, on the CPU."""

    def run(self, images: np.ndarray, image_sizes: np.ndarray) -> list[np.ndarray]:
        """As `Session.run`."""
        request = self._compiled.create_infer_request()  # one for each thread that asks
        found = request.infer(dict(zip(INPUTS, (images, image_sizes))))
        return [np.array(found[output]) for output in self._compiled.outputs]

    def _open(self, providers: list[str], num_threads: int) -> Description:
        try:
            import openvino
        except ImportError:
            raise ImportError(f"{self.path} needs OpenVINO: pip install openvino") from None
        for path in (self.path, weights_of(self.path)):
            if not os.path.isfile(path):
                raise FileNotFoundError(f"there is no file {path}")
        # Else processors with bfloat16 compute in it.
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": num_threads}
        core = openvino.Core()
        try:
            model = core.read_model(self.path, weights_of(self.path))
            self._compiled = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            detail = " ".join(str(error).split())[:300]
            raise ValueError(f"OpenVINO cannot open {self.path}: {detail}") from None
        text = None
        if model.has_rt_info([METADATA_KEY]):
            text = model.get_rt_info([METADATA_KEY]).astype(str)
        return read_description(text, self.path)


def weights_of(path: str) -> str:
    """The file of weights beside an .xml file: model.bin of model.xml."""
    start, _, end = path.rpartition(".xml")
    return f"{start}.bin{end}"
