#!/usr/bin/env python3
"""Draw a model's masks, with Detectron2's flags.

python demo/demo.py --input a.jpg folder 'more/*.png' --output drawn --opts MODEL.WEIGHTS model.pth
python demo/demo.py --video-input in.mp4 --output out.mp4 --opts MODEL.WEIGHTS model.pth
"""

import sys

from queryinst.demo import main

if __name__ == "__main__":
    sys.exit(main())
