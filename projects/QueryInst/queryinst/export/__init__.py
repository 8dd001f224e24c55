"""Files that other programs run, checked against the model that they come from."""

from .exporting import Report, UnverifiedError, export
from .proof import TOLERANCES, Tolerance

__all__ = ["TOLERANCES", "Report", "Tolerance", "UnverifiedError", "export"]
