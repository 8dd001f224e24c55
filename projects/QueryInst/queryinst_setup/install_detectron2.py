"""Installs Detectron2 into the running Python's environment, unless one that works is there.

The default is the copy of its Python files that the package labgym redistributes (see repack.py),
which needs nothing but a package index. pip builds upstream's own sources, with the compiled
operators, which QueryInst does not use.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

from . import origin, repack
from .probe import Probe, run_probe

COMMAND = "queryinst-install-detectron2"


class InstallError(Exception):
    """What a person has to mend; the message is one line."""


def main(argv: list[str] | None = None) -> int:
    """The command line. Exit status 0: a Detectron2 that works is there."""
    args = _parse_args(argv)
    try:
        _run(args)
    except (InstallError, repack.RepackError) as error:
        print(f"{COMMAND}: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that cannot be written
        print(f"{COMMAND}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{COMMAND}: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


def _parse_args(argv):
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Install Detectron2 beside this Python's torch. Does nothing if one that works "
        f"is there. Otherwise takes the Python files that the package {repack.SOURCE_NAME} "
        f"{repack.SOURCE_VERSION} redistributes under the Apache licence (checked by sha256).",
    )
    parser.add_argument(
        "--from-wheel",
        type=Path,
        metavar="FILE",
        help=f"use this wheel of {repack.SOURCE_NAME} {repack.SOURCE_VERSION}, download nothing",
    )
    parser.add_argument(
        "--constraint",
        type=Path,
        metavar="FILE",
        help="versions that pip keeps to, as pip's own -c",
    )
    return parser.parse_args(argv)


def _run(args) -> None:
    for path in (args.from_wheel, args.constraint):
        if path is not None and not path.is_file():
            raise InstallError(f"{path} does not exist")
    before = run_probe()
    if _works(before):
        print(f"Detectron2 is there and works: {origin.describe_origin()}")
        return
    _check_torch(before)
    _announce(before)
    pip_options = ["--constraint", str(args.constraint)] if args.constraint else []
    _check_pip()
    with tempfile.TemporaryDirectory() as work_dir:
        source = _source_wheel(args.from_wheel, Path(work_dir))
        _install_wheel(repack.repack(source, Path(work_dir)), pip_options)
    _verify()


def _works(probe: Probe) -> bool:
    return probe.crash is None and not probe.missing


def _check_torch(probe: Probe) -> None:
    if probe.crash is not None:
        raise InstallError(f"Python ends while it imports torch and Detectron2 ({probe.crash})")
    for name in ("torch", "torchvision"):
        if error := probe.modules[name].error:
            raise InstallError(
                f"{name} cannot be imported ({error}); install torch and torchvision first"
            )


def _announce(probe: Probe) -> None:
    """Say what is about to be replaced, if there is something."""
    if "No module named 'detectron2'" not in probe.missing[0][1]:
        lacking = ": ".join(probe.missing[0])
        print(f"replacing the Detectron2 that is there, as it does not work: {lacking}")


def _install_wheel(wheel: Path, pip_options: list[str]) -> None:
    print("installing Detectron2 and what it requires", flush=True)
    wanted = [str(wheel)]
    if importlib.util.find_spec("cv2") is None:  # of any package; they overwrite each other
        wanted.append("opencv-python-headless")
    is_there = origin.detectron2_version() is not None
    _pip("install", *pip_options, *wanted, failing="install Detectron2 and what it requires")
    if is_there:  # pip leaves a package of the same version as it is, damaged or not
        _pip(
            *("install", "--no-deps", "--no-index", "--force-reinstall", str(wheel)),
            failing="install Detectron2's wheel",
        )


def _source_wheel(from_wheel: Path | None, work_dir: Path) -> Path:
    """The checked labgym wheel, downloaded unless a file was given."""
    if from_wheel is None:
        _check_pip()
        print(f"downloading {repack.SOURCE_NAME} {repack.SOURCE_VERSION}", flush=True)
        # Its declared Python range is narrower than that of the files that are taken from it.
        _pip(
            *("download", "--no-deps", "--ignore-requires-python", "--only-binary=:all:"),
            *("--dest", str(work_dir), f"{repack.SOURCE_NAME}=={repack.SOURCE_VERSION}"),
            failing=f"download {repack.SOURCE_NAME} {repack.SOURCE_VERSION} (is there a network?)",
        )
        from_wheel = next(work_dir.glob("*.whl"), None)
        if from_wheel is None:
            raise InstallError(f"pip downloaded no wheel of {repack.SOURCE_NAME}")
    repack.verify_sha256(from_wheel)
    return from_wheel


def _check_pip() -> None:
    if importlib.util.find_spec("pip") is None:
        raise InstallError(f"{sys.executable} has no pip; run: {sys.executable} -m ensurepip")


def _pip(*arguments: str, failing: str) -> None:
    """Run pip quietly; on failure give the most telling line of what it said."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip() or "no message"
        raise InstallError(f"pip could not {failing}: {_most_telling(said.splitlines())}")


def _most_telling(lines: list[str]) -> str:
    """The line that says why: pip's last error, else simply the last."""
    for prefix in ("ERROR: ", "error: "):
        if telling := [line for line in lines if line.startswith(prefix)]:
            return telling[-1].removeprefix(prefix)
    return lines[-1]


def _verify() -> None:
    importlib.invalidate_caches()
    after = run_probe()
    if not _works(after):
        reason = after.crash or ": ".join(after.missing[0])
        # Half a Detectron2 would stand in the way of everything that looks for one.
        _pip("uninstall", "--yes", "detectron2", failing="remove what was installed")
        raise InstallError(
            f"Detectron2 was installed but does not work ({reason}); removed it again"
        )
    print(f"installed Detectron2: {origin.describe_origin()}")


if __name__ == "__main__":
    sys.exit(main())
