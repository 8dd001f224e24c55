#!/usr/bin/env python3
"""Installs Detectron2 unless one that works is there; --help says more."""

import sys
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit("needs Python 3.11 or newer, this is %d.%d" % sys.version_info[:2])
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "projects" / "QueryInst"))

from queryinst_setup.install_detectron2 import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
