"""Annotated images of one's own, in whatever format: what `queryinst data` runs."""
