"""Reports what QueryInst finds here: versions, devices, Detectron2's origin, and a verdict.

Made to be pasted into a bug report. Exit status 0 if QueryInst can run here, 1 if not.
"""

import argparse
import importlib.metadata
import os
import platform
import sys

from . import origin
from .probe import Module, Probe, run_probe

# All of these must import.
REQUIRED: tuple[str, ...] = ("torch", "torchvision", "detectron2", "queryinst", "numpy", "PIL")
REQUIRED += ("cv2", "scipy", "pycocotools", "fvcore", "iopath")
# Module: what it is for.
OPTIONAL = {
    "matplotlib": "the pictures and curves of the demo's report",
    "skimage": "the example on a photograph in docs/own_data.md",
    "lvis": "evaluation on LVIS",
    "cityscapesscripts": "evaluation on Cityscapes",
    "timm": "Detectron2's Swin and ViT backbones",
}
_WIDTH = 18
_MIB = 2**20


def main(argv: list[str] | None = None) -> int:
    """The command line; takes no options."""
    argparse.ArgumentParser("queryinst-collect-env", description=__doc__).parse_args(argv)
    probe = run_probe([*REQUIRED, *OPTIONAL])
    problems = find_problems(probe)
    print("\n".join(report_lines(probe)))
    for problem in problems:
        print(_row("problem", problem))
    print(_row("verdict", "not ready" if problems else "ready: QueryInst can run here"))
    return 1 if problems else 0


def find_problems(probe: Probe) -> list[str]:
    """One line for each thing that keeps QueryInst from running."""
    if probe.crash is not None:
        return [f"Python ended while it imported the packages: {probe.crash}"]
    problems: list[str] = []
    for name in REQUIRED:
        # Without Detectron2, queryinst and the capabilities fail for the same reason: say it once.
        if (error := probe.modules[name].error) and not (name == "queryinst" and problems):
            problems.append(f"{name} does not import: {error}{_remedy(name)}")
    if not problems and probe.missing:
        problems.append(f"Detectron2 lacks {': '.join(probe.missing[0])}{_remedy('detectron2')}")
    return problems


def report_lines(probe: Probe) -> list[str]:
    """Everything but the verdict."""
    lines = [
        _row("Python", f"{platform.python_version()}  {sys.executable}"),
        _row("system", f"{platform.platform()}, {os.cpu_count()} CPU cores"),
    ]
    if probe.hardware:
        lines.append(_row("hardware", probe.hardware))
    packages = importlib.metadata.packages_distributions()
    for name in REQUIRED:
        module = probe.modules.get(name)
        lines.append(_row(name, _describe(module, packages.get(name))))
        if name == "detectron2" and module is not None and module.error is None:
            lines.append(_row("  its origin", origin.describe_origin()))
            compiled = "compiled" if probe.compiled else "not compiled; QueryInst uses none of them"
            lines.append(_row("  its operators", compiled))
    lines += _device_lines(probe)
    for name, purpose in OPTIONAL.items():
        module = probe.modules.get(name)
        is_there = module is not None and module.error is None
        status = _describe(module, packages.get(name)) if is_there else "missing"
        lines.append(_row(name, f"{status}; optional, for {purpose}"))
    return lines


def _device_lines(probe: Probe) -> list[str]:
    if (torch := probe.modules.get("torch")) is None or torch.error is not None:
        return [_row("GPU", "not known without torch")]
    lines = [_row("CUDA of torch", probe.cuda_version or "none, built for the CPU")]
    for index, (name, memory) in enumerate(probe.cuda):
        lines.append(_row(f"cuda:{index}", f"{name}, {memory // _MIB} MiB"))
    if not probe.cuda:
        lines.append(_row("GPU", "none; add MODEL.DEVICE cpu to train on the CPU"))
    return lines


def _describe(module: Module | None, packages: list[str] | None) -> str:
    if module is None:
        return "not looked at"
    if module.error is not None:
        return f"-  {module.error}"
    version = importlib.metadata.version(packages[0]) if packages else module.version
    return f"{version or 'version unknown'}  {module.file or ''}".rstrip()


def _remedy(name: str) -> str:
    if name == "detectron2":
        return "; run queryinst-install-detectron2 (in a checkout: tools/install_detectron2.py)"
    if name == "cv2":
        return "; run python -m pip install opencv-python-headless"
    return ""


def _row(label: str, value: str) -> str:
    return f"{label:<{_WIDTH}} {value}"


if __name__ == "__main__":
    sys.exit(main())
