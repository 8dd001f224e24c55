"""What measures this project; run as `python -m dev....` from the top of a checkout.

Importing it makes the modules of tests/parity importable, which the comparisons share.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARITY = ROOT / "tests" / "parity"
if str(PARITY) not in sys.path:
    sys.path.insert(0, str(PARITY))
