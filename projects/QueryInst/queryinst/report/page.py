"""The HTML page of a run: one file, nothing loaded from elsewhere."""

import base64
import io
import math
from typing import Any

import numpy as np
import torch
from jinja2 import ChainableUndefined, Environment, PackageLoader, StrictUndefined, Undefined
from PIL import Image

from ..environment import as_line, describe_hardware, describe_versions


def render(**context: Any) -> str:
    """The page as HTML, by page.html.jinja, which names what it needs and escapes every text."""
    # Configurations of other projects have other keys.
    environment = page_environment("queryinst.report", undefined=ChainableUndefined)
    environment.filters.update(percent=_percent)
    template = environment.get_template("page.html.jinja")
    machine = as_line(describe_hardware("cuda" if torch.cuda.is_available() else "cpu"))
    return template.render(context, software=as_line(describe_versions()), machine=machine)


def page_environment(package: str, undefined: type[Undefined] = StrictUndefined) -> Environment:
    """For the templates of a package, which escape every text; images become `| jpeg`."""
    loader = PackageLoader(package, "")
    environment = Environment(loader=loader, autoescape=True, undefined=undefined)
    environment.filters.update(jpeg=_jpeg)
    return environment


def _percent(value: float | None | Undefined) -> str:
    """One decimal; a dash where there was nothing to measure."""
    return f"{value:.1f}" if isinstance(value, float | int) and math.isfinite(value) else "–"


def _jpeg(image: np.ndarray) -> str:
    """(H, W, 3) RGB as a data URL."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
