"""Random mutations of a valid COCO JSON: each is refused, warned of, or read as it says."""
