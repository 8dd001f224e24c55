"""QueryInst's configurations and published models by name, from any working directory."""

from .handler import register_handler
from .metadata import ModelEntry, load_models
from .model_zoo import get, get_checkpoint_url, get_config, get_config_file

register_handler()

__all__ = [
    "ModelEntry",
    "get",
    "get_checkpoint_url",
    "get_config",
    "get_config_file",
    "load_models",
]
