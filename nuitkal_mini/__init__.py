"""The update system for Python programs that nobody installs."""
