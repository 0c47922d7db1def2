"""The publisher, `python -m nuitkal_mini.publish`: a folder becomes a release on the server."""
