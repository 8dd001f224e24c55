"""Who may import whom, read off the source. CONTRIBUTING.md says the same to a person."""

import ast
import re
import sys
from pathlib import Path

import queryinst

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(queryinst.__file__).parent

# Each folder and module of the package: what it may import of the package besides itself.
MAY_IMPORT = {
    "yaml_files": "",
    "config": "yaml_files",
    "config_files": "config yaml_files",
    "value_limits": "",
    "config_relations": "",
    "config_limits": "config config_relations value_limits",
    "structures": "",
    "precision": "",
    "devices": "",
    "environment": "",
    "json_files": "",
    "wording": "",
    "modeling": "structures precision",
    "data": "config config_limits structures json_files wording",
    "solver": "config config_limits structures",
    "checkpoint": "config structures yaml_files",
    "model_zoo": "checkpoint config config_files devices yaml_files",
    "speedups": "modeling structures precision",
    "build": "modeling speedups checkpoint config config_limits",
    "engine": "yaml_files config config_files value_limits config_relations config_limits"
    " structures precision devices environment modeling data solver checkpoint model_zoo speedups"
    " build json_files wording",
    "predict": "checkpoint config config_files data devices engine modeling model_zoo yaml_files",
    "export": "checkpoint data modeling precision predict speedups yaml_files",
    "convert": "checkpoint config engine model_zoo yaml_files",
    "demo": "data engine predict",
    "recipe": "checkpoint config_files config_limits data devices engine json_files model_zoo"
    " own_data predict solver wording yaml_files",
    "report": "config data environment json_files yaml_files",
    "own_data": "config config_files data environment json_files model_zoo predict report"
    " wording yaml_files",
    "testing": "config",
    "__main__": "",
}
# What these may import from outside, besides the standard library.
FROM_OUTSIDE = {
    "yaml_files": "yaml",
    "value_limits": "",
    "config_relations": "detectron2",
    "config_limits": "detectron2",
    "config": "detectron2",
    "config_files": "detectron2",
    "structures": "detectron2 torch",
    "precision": "torch",
    "modeling": "detectron2 torch numpy scipy",
}
# Within modeling/: what needs no labels, and what compares with them.
ARCHITECTURE = {"backbone", "box_head", "cascade", "dynamic_conv", "mask_head", "pooler"}
TRAINING = {"criterion", "losses", "matcher", "targets"}
COMMAND_LINES = {"train_net", "demo", "tools", "dev", "tests", "queryinst_setup", "queryinst_cli"}


def module_name(path: Path) -> str:
    parts = ["queryinst", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def part_of(name: str) -> str:
    """The folder or module right below the package; empty for the package itself."""
    return name.split(".")[1] if "." in name else ""


PARTS = {part_of(name) for name in MODULES} - {"", "_version"}


def imported_by(name: str) -> set[str]:
    """Full names of the modules that module ``name`` imports, wherever in the file it does."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= _from_import(node, package)
    return imported


def _from_import(node: ast.ImportFrom, package: str) -> set[str]:
    source = node.module or ""
    if node.level:
        parent = package.split(".")[: len(package.split(".")) - node.level + 1]
        source = ".".join([*parent, source] if source else parent)
    # `from package import module` names a module, `from module import name` does not
    modules = {f"{source}.{alias.name}" for alias in node.names} & MODULES.keys()
    return modules or {source}


def is_own(name: str) -> bool:
    return name.split(".")[0] == "queryinst"


def modeling_imports(name: str) -> set[str]:
    """The modules of modeling/ that one of them imports, as their bare names."""
    prefix = "queryinst.modeling."
    imported = imported_by(f"{prefix}{name}")
    return {other.removeprefix(prefix) for other in imported if other.startswith(prefix)}


def test_imported_by_sees_every_kind_of_import():
    assert "queryinst.config" in imported_by("queryinst")  # from .config import f
    assert "queryinst.data" in imported_by("queryinst")  # from . import data
    assert "torch" in imported_by("queryinst.solver")
    assert "queryinst.modeling.dynamic_conv" in imported_by("queryinst.modeling.box_head")


def test_imports_keep_their_direction():
    wrong = []
    for name in MODULES:
        part = part_of(name)
        allowed = {part, "_version", *MAY_IMPORT.get(part, "").split()}
        for other in sorted(filter(is_own, imported_by(name))):
            if part in PARTS and part_of(other) not in allowed:
                wrong.append(f"{name} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_imports_from_outside_are_few_where_the_algorithm_is():
    wrong = []
    for name in MODULES:
        allowed = {"queryinst", *FROM_OUTSIDE.get(part_of(name), "").split()}
        roots = {other.split(".")[0] for other in imported_by(name)} - set(sys.stdlib_module_names)
        if part_of(name) in FROM_OUTSIDE:
            wrong += [f"{name} imports {root}" for root in sorted(roots - allowed)]
    assert not wrong, "\n".join(wrong)


def test_imports_name_no_command_line_and_no_test_helper():
    wrong = []
    for name in MODULES.keys() - {"queryinst.__main__"}:
        for other in sorted(imported_by(name)):
            if other.split(".")[0] in COMMAND_LINES or other == "queryinst.testing":
                wrong.append(f"{name} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_modeling_keeps_architecture_and_training_apart():
    """Labels enter in the meta architecture alone, which nothing else in the folder imports."""
    names = {name.rpartition(".")[2] for name in MODULES if name.startswith("queryinst.modeling.")}
    assert ARCHITECTURE | TRAINING <= names
    wrong = []
    for name in sorted(names):
        barred = {"meta_arch"}
        barred |= TRAINING if name in ARCHITECTURE else set()
        barred |= ARCHITECTURE if name in TRAINING else set()
        wrong += [f"{name} imports {other}" for other in sorted(modeling_imports(name) & barred)]
    assert not wrong, "\n".join(wrong)


def contributing_table() -> dict[str, set[str]]:
    """CONTRIBUTING.md's table in the form of MAY_IMPORT."""
    lines = (ROOT / "CONTRIBUTING.md").read_text().split("| may import |\n| --- | --- | --- |\n")[1]
    table: dict[str, set[str]] = {}
    for line in lines.partition("\n\n")[0].splitlines():
        cells = line.strip("| ").split(" | ")
        parts, allowed = (re.findall(r"`(\w+)(?:/|\.py)?`", cells[i]) for i in (0, 2))
        if cells[2].strip() == "all above":
            allowed = list(table)
        table |= {part: set(allowed) for part in parts}
    return table


def test_contributing_says_the_same():
    assert contributing_table() == {part: set(names.split()) for part, names in MAY_IMPORT.items()}
    assert PARTS == MAY_IMPORT.keys()
