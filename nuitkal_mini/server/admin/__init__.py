"""The admin site, as part of the WSGI application.

`site.py` receives each request: login, CSRF, headers, and a table of pages. A page is a function
from a `PageRequest` to an `Answer`. `markup.py` fills HTML templates and escapes every value that
is not `Html` already. Style sheet and script are Python strings (`style.py`, `script.py`), so that
the site works installed, zipped and compiled.
"""

from __future__ import annotations
