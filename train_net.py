#!/usr/bin/env python
"""Train and evaluate QueryInst, with Detectron2's command line.

python train_net.py --config-file COCO-InstanceSegmentation/queryinst_R_50_FPN_1x.yaml --num-gpus 8
python train_net.py --eval-only MODEL.WEIGHTS path/to/model.pth
python train_net.py --config-file ... --dataset mine my.json my_images DATASETS.TRAIN "('mine',)"
"""

import signal
import sys

if __name__ == "__main__":  # until `run` handles it; the imports would end with a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from queryinst.engine import run  # isort: skip  (without Detectron2 it says how to get it)
from detectron2.engine import default_argument_parser

from queryinst.data.registration import add_dataset_argument

if __name__ == "__main__":
    parser = default_argument_parser()
    add_dataset_argument(parser)
    sys.exit(run(parser.parse_args()))
