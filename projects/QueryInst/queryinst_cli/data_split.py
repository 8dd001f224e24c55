"""`queryinst data split`."""
