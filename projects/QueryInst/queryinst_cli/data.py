"""`queryinst data`."""

import argparse
import importlib


def run(args: argparse.Namespace) -> int:
    """Do the job that `args.job` names."""
    return importlib.import_module(f"{__package__}.data_{args.job}").run(args)
