"""`queryinst data show`."""
