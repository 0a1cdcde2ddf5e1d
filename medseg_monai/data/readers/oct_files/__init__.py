"""OCT scans in the files of the devices that made them, one module a format."""
