"""QueryInst (Fang et al., ICCV 2021) on Detectron2."""

import sys
import warnings

try:
    import detectron2  # noqa: F401
except ImportError as error:
    raise ImportError(
        "queryinst needs Detectron2, which no package index has; "
        "tools/install_detectron2.py of the repository, or the command "
        "queryinst-install-detectron2, installs it"
    ) from error

with warnings.catch_warnings():
    if not sys.warnoptions:  # it scripts functions on import, in a way that torch deprecates
        warnings.filterwarnings("ignore", r".*torch\.jit\.script.*")
    import detectron2.modeling  # noqa: F401

from . import data, export, model_zoo  # noqa: F401  registers shapes_* and queryinst://
from ._version import __version__
from .build import build_queryinst  # noqa: F401  registers the meta architecture
from .config import add_queryinst_config
from .modeling import QueryInst
from .predict import load
from .speedups import optimize_for_inference

__all__ = ["QueryInst", "__version__", "add_queryinst_config", "load", "optimize_for_inference"]
