#!/usr/bin/env python
"""Train and evaluate QueryInst, with Detectron2's command line.

python train_net.py --config-file configs/COCO-InstanceSegmentation/queryinst_R_50_FPN_1x.yaml --num-gpus 8
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS path/to/model.pth
"""

import sys

from detectron2.engine import default_argument_parser

from queryinst.engine import run

if __name__ == "__main__":
    sys.exit(run(default_argument_parser().parse_args()))
