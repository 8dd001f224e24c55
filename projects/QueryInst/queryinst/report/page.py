"""The HTML page of a run: one file, nothing loaded from elsewhere."""

import base64
import io
import math
import os
import platform
from typing import Any

import detectron2
import numpy as np
import torch
from jinja2 import ChainableUndefined, Environment, PackageLoader, Undefined
from PIL import Image

import queryinst

from ..environment import processor_name


def render(**context: Any) -> str:
    """The page as HTML, by page.html.jinja, which names what it needs and escapes every text."""
    environment = Environment(
        loader=PackageLoader("queryinst.report", ""),
        autoescape=True,
        undefined=ChainableUndefined,  # configurations of other projects have other keys
    )
    environment.filters.update(percent=_percent, jpeg=_jpeg)
    template = environment.get_template("page.html.jinja")
    return template.render(context, software=_versions(), machine=_machine())


def _percent(value: float | None | Undefined) -> str:
    """One decimal; a dash where there was nothing to measure."""
    return f"{value:.1f}" if isinstance(value, float | int) and math.isfinite(value) else "–"


def _jpeg(image: np.ndarray) -> str:
    """(H, W, 3) RGB as a data URL."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _versions() -> str:
    return (
        f"queryinst {queryinst.__version__}, Detectron2 {detectron2.__version__},"
        f" torch {torch.__version__}, Python {platform.python_version()}"
    )


def _machine() -> str:
    parts = [processor_name(), f"{len(os.sched_getaffinity(0))} cores", platform.system()]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)
