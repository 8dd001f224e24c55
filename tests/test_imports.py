"""Who may import whom, read off the source."""

import ast
import sys
from pathlib import Path

import pytest

import queryinst

PACKAGE = Path(queryinst.__file__).parent
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = ["queryinst", *path.with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): PACKAGE / path for path in FILES}


def imported_by(name: str) -> set[str]:
    """Full names of the modules that module ``name`` imports, wherever in the file it does."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= _from_import(node, package)
    return found


def _from_import(node: ast.ImportFrom, package: str) -> set[str]:
    source = node.module or ""
    if node.level:
        parent = package.split(".")[: len(package.split(".")) - node.level + 1]
        source = ".".join([*parent, source] if source else parent)
    # `from package import module` names a module, `from module import name` does not
    modules = {f"{source}.{alias.name}" for alias in node.names} & MODULES.keys()
    return modules or {source}


def own(name: str) -> set[str]:
    return {imported for imported in imported_by(name) if imported.split(".")[0] == "queryinst"}


def below(prefix: str) -> list[str]:
    return [name for name in MODULES if f"{name}.".startswith(f"queryinst.{prefix}.")]


def is_in(name: str, *packages: str) -> bool:
    return any(f"{name}.".startswith(f"queryinst.{package}.") for package in packages)


def test_the_reader_of_imports_finds_every_kind():
    assert "queryinst.config" in imported_by("queryinst")  # from .config import f
    assert "queryinst.data" in imported_by("queryinst")  # from . import data
    assert "torch" in imported_by("queryinst.solver")
    assert "queryinst.modeling.dynamic_conv" in imported_by("queryinst.modeling.box_head")


GROUND_FLOOR = {"config", "structures"}
GROUND_FLOOR |= {"modeling.precision", "modeling.losses", "modeling.dynamic_conv"}


@pytest.mark.parametrize("name", sorted(GROUND_FLOOR))
def test_the_ground_floor_needs_torch_and_detectron2_alone(name):
    others = {f"queryinst.{other}" for other in GROUND_FLOOR}
    roots = {other.split(".")[0] for other in imported_by(f"queryinst.{name}") - others}
    assert roots - set(sys.stdlib_module_names) <= {"torch", "detectron2"}


@pytest.mark.parametrize(
    "name, allowed",
    [
        ("initial_queries", set()),
        ("box_head", {"dynamic_conv"}),
        ("mask_head", {"dynamic_conv"}),
        ("cascade", {"box_head"}),
        ("matcher", {"losses"}),
        ("criterion", {"losses", "mask_targets"}),
    ],
)
def test_what_the_named_modules_build_on(name, allowed):
    named = {"initial_queries", "box_head", "mask_head", "cascade", "matcher", "criterion"}
    named |= {"losses", "mask_targets", "dynamic_conv", "postprocessing", "meta_arch"}
    found = own(f"queryinst.modeling.{name}")
    assert found & {f"queryinst.modeling.{other}" for other in named - allowed} == set()


def test_the_architecture_knows_neither_matching_nor_losses():
    training = {f"queryinst.modeling.{name}" for name in ("matcher", "criterion", "losses")}
    for name in ("initial_queries", "dynamic_conv", "box_head", "cascade", "mask_head"):
        assert own(f"queryinst.modeling.{name}") & training == set(), name


def test_nothing_in_modeling_imports_the_meta_architecture():
    for name in set(below("modeling")) - {"queryinst.modeling"}:
        assert "queryinst.modeling.meta_arch" not in own(name), name
        assert "queryinst.modeling" not in own(name), name


# What of a checkpoint's rules the model itself needs: Detectron2's checkpointer gives it state
# dicts in others' names.
RULES_OF_LOADING = {"queryinst.checkpoint.loading", "queryinst.checkpoint.mmdet"}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_layers(name):
    imported = own(name)
    if name == "queryinst.modeling.meta_arch":
        imported -= RULES_OF_LOADING
    if is_in(name, "modeling"):
        barred = ("engine", "data", "solver", "checkpoint", "model_zoo")
    elif is_in(name, "data", "solver", "checkpoint", "model_zoo"):
        barred = ("engine", "modeling")
    elif is_in(name, "engine"):
        barred = ("modeling",)
    else:
        barred = ()
    assert [other for other in sorted(imported) if is_in(other, *barred)] == []
    if name != "queryinst.testing":
        assert "queryinst.testing" not in imported


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nothing_imports_a_command_line(name):
    roots = {imported.split(".")[0] for imported in imported_by(name)}
    assert roots & {"train_net", "demo", "tools", "tests", "queryinst_setup"} == set()
