"""What derives keys needs neither torch nor Detectron2."""

import ast
import sys
from pathlib import Path

import queryinst

FOLDER = Path(queryinst.__file__).parent / "recipe"
PURE = (
    "deriving",
    "memory",
    "queries",
    "sampling",
    "schedule",
    "sizes",
    "statistics",
    "structures",
)


def imported_by(path):
    """Roots of packages; modules beside this one with a dot."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield "." * node.level + module if node.level else module.partition(".")[0]


def test_deriving_imports_numpy_alone():
    allowed = {*sys.stdlib_module_names, "numpy", "..wording", *(f".{name}" for name in PURE)}
    for name in PURE:
        imported = set(imported_by(FOLDER / f"{name}.py"))
        assert imported <= allowed, name
    assert ".sizes" in set(imported_by(FOLDER / "deriving.py"))
