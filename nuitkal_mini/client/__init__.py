"""The end user's machine: check, download, install, roll back, start."""
