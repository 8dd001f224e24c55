"""The version, in a file that nothing has to be installed to read."""

__version__ = "0.1.0"
