"""What the interpreter can import, asked in a process of its own.

A process, because an import may crash the interpreter (libraries that do not fit each other), and
because what was just installed is not seen by an interpreter that runs already.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What QueryInst uses of Detectron2, as (module, attribute). The version says little: upstream's
# HEAD has called itself 0.6 since 2021.
CAPABILITIES = (
    ("detectron2.checkpoint", "DetectionCheckpointer"),
    ("detectron2.config", "configurable"),
    ("detectron2.data", "DatasetMapper"),
    ("detectron2.data.datasets", "register_coco_instances"),
    ("detectron2.engine", "DefaultTrainer"),
    ("detectron2.evaluation", "COCOEvaluator"),
    ("detectron2.layers", "paste_masks_in_image"),
    ("detectron2.model_zoo", "get_config_file"),
    ("detectron2.modeling", "META_ARCH_REGISTRY"),
    ("detectron2.modeling", "build_backbone"),
    ("detectron2.modeling.box_regression", "Box2BoxTransform"),
    ("detectron2.modeling.poolers", "ROIPooler"),
    ("detectron2.solver.build", "get_default_optimizer_params"),
    ("detectron2.structures", "ImageList"),
    ("detectron2.utils.visualizer", "Visualizer"),
)

# Runs in the other process; reads {"modules": [...], "capabilities": [[module, name], ...]} and
# prints the answers after the marker, as imports print what they like.
_MARKER = "queryinst-probe:"
_SOURCE = r"""
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
asked = json.loads(sys.argv[1])
sys.path += asked["path"]
answer = {"modules": {}, "missing": [], "cuda": [], "cuda_version": None, "compiled": False,
    "hardware": ""}

def attempt(action):
    try:
        return action(), None
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split()) or repr(error)
        return None, type(error).__name__ + ": " + text[:300]

for name in asked["modules"]:
    module, error = attempt(lambda: importlib.import_module(name))
    answer["modules"][name] = {
        "version": str(getattr(module, "__version__", "")),
        "file": getattr(module, "__file__", None),
        "error": error,
    }
for name, attribute in asked["capabilities"]:
    error = attempt(lambda: getattr(importlib.import_module(name), attribute))[1]
    if error:
        answer["missing"].append([name + "." + attribute, error])
if "detectron2" in sys.modules:
    answer["compiled"] = attempt(lambda: importlib.import_module("detectron2._C"))[1] is None
torch = sys.modules.get("torch")
if torch is not None and not answer["modules"].get("torch", {}).get("error"):
    answer["cuda_version"] = torch.version.cuda
    devices = attempt(
        lambda: [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    )[0]
    answer["cuda"] = [[d.name, d.total_memory] for d in devices or []]
if not answer["modules"].get("queryinst", {"error": "not asked for"})["error"]:
    environment = importlib.import_module("queryinst.environment")
    answer["hardware"] = environment.as_line(environment.describe_hardware())
print(asked["marker"] + json.dumps(answer))
"""


@dataclass
class Module:
    """One imported module; `error` is None if it imports, else one line."""

    version: str = ""
    file: str | None = None
    error: str | None = None


@dataclass
class Probe:
    """What the process answered.

    missing: (name, error) of each capability of Detectron2 that is not there.
    hardware: one line; empty if queryinst does not import.
    crash: one line if the process died before it could answer; all else is empty then.
    """

    modules: dict[str, Module] = field(default_factory=dict)
    missing: list[Sequence[str]] = field(default_factory=list)
    cuda: list[Sequence[Any]] = field(default_factory=list)  # name, bytes of memory
    cuda_version: str | None = None
    compiled: bool = False
    hardware: str = ""
    crash: str | None = None


def run_probe(modules=("torch", "torchvision"), *, capabilities=CAPABILITIES) -> Probe:
    """Import `modules` and look for `capabilities` in a new process of this interpreter."""
    package_parent = str(Path(__file__).resolve().parent.parent)  # a checkout, not installed, too
    question = {
        "modules": list(modules),
        "capabilities": [list(pair) for pair in capabilities],
        "path": [package_parent],
        "marker": _MARKER,
    }
    done = subprocess.run(
        [sys.executable, "-c", _SOURCE, json.dumps(question)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        # Without the working directory: a clone of Detectron2 that lies there is no package.
        env=os.environ | {"PYTHONSAFEPATH": "1"},
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith(_MARKER)]
    if not answers:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Probe(crash=f"exit status {done.returncode}: {last}")
    answer = json.loads(answers[-1].removeprefix(_MARKER))
    modules = {name: Module(**module) for name, module in answer.pop("modules").items()}
    return Probe(modules, **answer)
