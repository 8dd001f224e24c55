"""`queryinst env`."""

import argparse

from queryinst_setup import collect_env


def run(args: argparse.Namespace) -> int:
    """As queryinst-collect-env."""
    return collect_env.main([])
