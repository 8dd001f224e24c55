"""From annotated images to the configuration of a training, with a reason for each key."""
