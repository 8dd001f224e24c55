"""A built wheel holds everything and works from anywhere; so does the checkout on PYTHONPATH."""

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD_INPUTS = ("setup.cfg", "setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "NOTICE")
CONFIGS = sorted(path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml"))


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel built without network from a copy, so that no build/ comes into the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*_cache")
    for name in ("configs", "projects"):
        shutil.copytree(ROOT / name, folder / "src" / name, ignore=skip)
    for name in BUILD_INPUTS:
        shutil.copy(ROOT / name, folder / "src" / name)
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    run(sys.executable, "-c", build, cwd=folder / "src")
    return next(folder.glob("queryinst-*.whl"))


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    options = ("--quiet", "--no-deps", "--no-index", "--no-compile", "--target", folder)
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *options, wheel)
    return folder


def python(path, *arguments, cwd):
    return run(sys.executable, *arguments, cwd=cwd, env=os.environ | {"PYTHONPATH": str(path)})


def test_wheel_holds_packages_configs_and_licence(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert len(names) == len(set(names))
    expected = {f"queryinst/model_zoo/configs/{config.as_posix()}" for config in CONFIGS}
    assert {name for name in names if name.endswith(".yaml") and "/configs/" in name} == expected
    sources = ROOT / "projects" / "QueryInst"
    modules = {path.relative_to(sources).as_posix() for path in sources.rglob("*.py")}
    assert modules <= set(names)
    data = {"model_zoo/models.yaml", "own_data/check_page.html.jinja", "report/page.html.jinja"}
    assert {"queryinst_setup/LICENSE", *(f"queryinst/{name}" for name in data)} <= set(names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "queryinst",
        "queryinst_cli",
        "queryinst_runtime",
        "queryinst_setup",
    }


def test_wheel_asks_for_neither_detectron2_nor_an_opencv(wheel):
    archive = zipfile.ZipFile(wheel)
    name = next(name for name in archive.namelist() if name.endswith("METADATA"))
    metadata = archive.read(name).decode().splitlines()
    required = [line for line in metadata if line.startswith("Requires-Dist:")]
    assert any("torch>=" in line for line in required)
    assert not any("detectron2" in line for line in required)
    assert not any("opencv" in line and "extra ==" not in line for line in required)


def test_version_has_one_source(wheel):
    source = (ROOT / "projects" / "QueryInst" / "queryinst" / "_version.py").read_text()
    version = ast.literal_eval(ast.parse(source).body[-1].value)
    assert wheel.name == f"queryinst-{version}-py3-none-any.whl"


CHECK = """
import sys, queryinst
from queryinst import model_zoo
for name in sys.argv[1:]:
    print(model_zoo.get_config_file(name))
print(queryinst.__file__)
"""


def test_wheel_installed_finds_its_configs_from_elsewhere(site, tmp_path):
    *configs, module = python(
        site, "-W", "ignore", "-c", CHECK, *CONFIGS, cwd=tmp_path
    ).splitlines()
    config_dir = site / "queryinst" / "model_zoo" / "configs"
    assert configs == [str(config_dir / config) for config in CONFIGS]
    assert module == str(site / "queryinst" / "__init__.py")


def test_wheel_installed_has_tools_that_run_and_the_licence(site, tmp_path):
    said = python(site, "-m", "queryinst_setup.install_detectron2", "--help", cwd=tmp_path)
    assert "--from-wheel" in said
    assert "verdict" in python(site, "-m", "queryinst_setup.collect_env", "--help", cwd=tmp_path)
    assert (site / "bin" / "queryinst-install-detectron2").is_file()
    assert (site / "bin" / "queryinst-collect-env").is_file()
    assert "queryinst predict photo.jpg" in python(site, site / "bin" / "queryinst", cwd=tmp_path)
    program = "from queryinst_setup import repack; print(repack.licence_text().decode())"
    assert "Version 2.0, January 2004" in python(site, "-c", program, cwd=tmp_path)


def test_collect_env_calls_a_checkout_on_the_path_ready(tmp_path):
    sources = ROOT / "projects" / "QueryInst"
    said = python(sources, "-m", "queryinst_setup.collect_env", cwd=tmp_path)
    assert "ready: QueryInst can run here" in said
    assert str(sources / "queryinst" / "__init__.py") in said
    assert "instructions" in next(line for line in said.splitlines() if line.startswith("hardware"))
