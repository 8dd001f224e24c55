"""How much mask AP a model learns in the same seconds, beside Mask R-CNN and MMDetection."""
