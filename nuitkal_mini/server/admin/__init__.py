"""The admin site: everything an operator does, in a browser, as WSGI.

`site.py` is the way in: login, CSRF, headers, and a table of pages. A page is a function from a
`PageRequest` (who asks for what, in which language) to an answer; `markup.py` makes its HTML, in
which every value is escaped unless it is markup already. Style sheet and script are Python strings
(`style.py`, `script.py`), so that the server is whole however it is carried: installed, zipped or
compiled.
"""

from __future__ import annotations
