"""`queryinst data convert`."""
