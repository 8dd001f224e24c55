"""Where the installed Detectron2 comes from."""

import importlib.metadata
import json

from . import repack


def detectron2_version() -> str | None:
    """The version that pip knows, or None without package metadata."""
    try:
        return importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return None


def describe_origin() -> str:
    """One line on how Detectron2 got here, as far as its package metadata tell."""
    version = detectron2_version()
    if version is None:
        return "a folder on the path, not installed by pip"
    if version == repack.VERSION:
        return f"the Python files that {repack.SOURCE_NAME} {repack.SOURCE_VERSION} redistributes"
    text = importlib.metadata.distribution("detectron2").read_text("direct_url.json")
    source = json.loads(text) if text else {}
    if "vcs_info" in source:
        commit = source["vcs_info"].get("commit_id", "commit unknown")
        return f"built from {source['url']} at {commit}"
    if source.get("dir_info", {}).get("editable"):
        return f"editable install of {source['url']}"
    if "url" in source:
        return f"installed from {source['url']}"
    return "installed by a package manager that left no address"
