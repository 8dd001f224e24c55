"""train_net.py, but rank 1 sleeps in its second step. Run by test_train_processes.py."""

import sys
import time

from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage

from queryinst.data.registration import add_dataset_argument
from queryinst.engine import run
from queryinst.modeling.meta_arch import QueryInst

forward = QueryInst.forward


def forward_or_sleep(self, *args):
    if comm.get_rank() == 1 and get_event_storage().iter == 1:
        time.sleep(600)
    return forward(self, *args)


QueryInst.forward = forward_or_sleep  # type: ignore[method-assign]  # in each spawned process

if __name__ == "__main__":
    parser = default_argument_parser()
    add_dataset_argument(parser)
    sys.exit(run(parser.parse_args()))
