"""A visitor of the admin site: remembers cookies and the CSRF token as a browser does, follows
nothing.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Any, Dict, List, Mapping
from urllib.parse import unquote, urlencode

from nuitkal_mini.server.application import Application
from nuitkal_mini.server.auth import create_user

from .caller import BOUNDARY, Caller, Reply, make_form

PASSWORD = "a right password"


class Visitor:
    """Who looks at the site in English."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self._call = Caller(app, has_token=False)
        self.cookies: Dict[str, str] = {}
        self.csrf = ""

    def get(self, page: str = "", **environ: str) -> Reply:
        return self._visit("GET", page, b"", environ)

    def post(
        self, page: str = "", headers: Mapping[str, str] = MappingProxyType({}), **fields: Any
    ) -> Reply:
        """Send a form; fields that are bytes are files. The CSRF token goes along unless another is
        given.
        """
        given = {"csrf": self.csrf, **fields}
        if any(isinstance(value, bytes) for value in given.values()):
            return self._visit(
                "POST",
                page,
                make_form(given),
                {"CONTENT_TYPE": f"multipart/form-data; boundary={BOUNDARY}", **headers},
            )
        return self._visit(
            "POST",
            page,
            urlencode(given).encode(),
            {"CONTENT_TYPE": "application/x-www-form-urlencoded", **headers},
        )

    def log_in(
        self,
        username: str = "admin",
        password: str = PASSWORD,
        page: str = "login/",
        **headers: str,
    ) -> Reply:
        reply = self.post(page, headers, username=username, password=password)
        if reply.status == 303:
            self.get("tokens/")
        return reply

    def _visit(self, method: str, page: str, body: bytes, headers: Dict[str, str]) -> Reply:
        path, _, query = (page if page.startswith("/") else "/admin/" + page).partition("?")
        environ = {
            "HTTP_COOKIE": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
            "HTTP_ACCEPT_LANGUAGE": "en",
            **headers,
        }
        reply = self._call(method, unquote(path), body, query, **environ)
        for header in reply.cookies:
            name, value = re.match(r"(\w+)=([^;]*)", header).groups()  # type: ignore[union-attr]
            self.cookies[name] = value
            if not value:
                del self.cookies[name]
        found = re.search(r'name="csrf" value="([^"]+)"', reply.text)
        if found:
            self.csrf = found[1]
        return reply


def make_visitor(app: Application, logged_in: bool = True, name: str = "admin") -> Visitor:
    """A visitor with a user of the name, who has logged in unless told otherwise."""
    create_user(app.store.database, name, PASSWORD, "tests")
    visitor = Visitor(app)
    if logged_in:
        assert visitor.log_in(name).status == 303 and visitor.csrf
    return visitor


def rows(reply: Reply, attribute: str = "data-version") -> List[str]:
    """The values of the rows' attribute, in the page's order."""
    return re.findall(rf'<tr {attribute}="([^"]*)"', reply.text)
