"""The modules of dev/ and tests/parity/ that the comparison with MMDetection is made of."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [
    str(path) for path in (ROOT / "dev", ROOT / "tests" / "parity") if str(path) not in sys.path
]
