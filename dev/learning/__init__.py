"""What is learned from little data in the same seconds, beside Mask R-CNN and MMDetection."""
