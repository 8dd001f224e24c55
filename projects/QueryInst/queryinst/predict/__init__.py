"""From images of any kind to results: what `queryinst.load` gives."""

from .loading import load
from .model import Model
from .video import predict_video

__all__ = ["Model", "load", "predict_video"]
