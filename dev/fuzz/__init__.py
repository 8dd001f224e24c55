"""Feeds mutated configurations, checkpoints and COCO JSON to the project: `python -m dev.fuzz`."""
