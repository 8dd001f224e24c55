"""Full-size models side by side with MMDetection's."""
