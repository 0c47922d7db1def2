"""The developer's machine: a folder becomes a release on the server (`python -m nuitkal_mini.publish`)."""
