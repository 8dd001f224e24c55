#!/usr/bin/env python3
"""Time and memory of inference and training steps of any configuration."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dev.benchmark.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
