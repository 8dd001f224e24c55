"""`queryinst data merge`."""
