"""`queryinst data check`."""

import argparse
import importlib


def run(args: argparse.Namespace) -> int:
    """List all problems; the exit status is 1 where there are errors."""
    return importlib.import_module("queryinst.own_data.check_command").run(args)
