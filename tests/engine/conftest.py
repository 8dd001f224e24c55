"""What the tests of the engine share."""

import pytest

from queryinst.engine import setup_cfg


@pytest.fixture
def make_cfg(make_args):
    """From options as on the command line, over the tiny configuration; frozen."""

    def make(*opts):
        args = make_args(*opts)
        return setup_cfg(args.config_file, args.opts)

    return make
