"""What inference and training steps cost, and where: what tools/benchmark.py and growth.py run."""

from .main import Case, Result, run_case

__all__ = ["Case", "Result", "run_case"]
