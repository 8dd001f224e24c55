"""How fast QueryInst, Detectron2's Mask R-CNN and MMDetection's QueryInst learn from small data sets."""
