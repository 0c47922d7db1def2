"""A request to the admin site, with what every page needs: texts, links, numbers, the frame."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Iterable, List, Optional, Sequence, Tuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

from ...problem import Problem
from ..api import Settings
from ..fleet import Fleet
from ..messages import ENGLISH, language_of, say_problem
from ..multipart import Form
from ..refused import Headers
from ..releases import STABLE, rfc3339
from ..responses import Answer, Environ
from ..sessions import Session
from ..store import Store
from . import script, style
from .markup import Html, fill, join, text

BASE = "/admin/"
LANGUAGE_COOKIE = "nuitkal_language"
NOTICE_COOKIE = "nuitkal_notice"
NOTICE_SECONDS = 60
LOCALES = {"en": "en", "zh": "zh-CN"}
PAGES = (
    ("", "Releases"),
    ("upload/", "Upload"),
    ("fleet/", "Installed versions"),
    ("tokens/", "Tokens"),
    ("users/", "Users"),
    ("log/", "Log"),
    ("overview/", "Overview"),
)
NOTICES = {  # what the page after a successful POST says
    "uploaded": "Version {version} was uploaded.",
    "held_back": ("Version {version} was uploaded, and is not active: it lost its main program."),
    "activated": "Version {version} is active now.",
    "back": (
        "Version {version} is active now. It is older than the one before: clients go back "
        "to it, those with public keys stay where they are."
    ),
    "deactivated": "No version is active now: clients find no update.",
    "deleted": "Version {version} was deleted.",
    "saved": "Saved.",
    "promoted": "Version {version} is in this channel now.",
    "revoked": "The token {version} was revoked.",
    "user_added": "The user {version} was added.",
    "user_changed": "The user {version} was changed.",
}

FRAME = """<!DOCTYPE html>
<html lang="{locale}"><head><meta charset="utf-8"><meta name="viewport"
content="width=device-width, initial-scale=1">
<title>{title} · nuitkal</title><link rel="icon" href="{icon}"><link rel="stylesheet"
href="{style}"><script src="{script}" defer></script></head>
<body><a class="skip" href="#main">[[Skip to the content]]</a><header>{head}<p class="language"><a
href="{switch}" lang="{other_locale}">{other}</a></p></header>
<main id="main"><h1>{title}</h1>{notice}{error}
{body}
</main></body></html>
"""
HEAD = """<nav aria-label="[[Pages]]"><ul>{links}</ul></nav>
<form class="channel" method="get"><label for="channel">[[Channel]]</label><select id="channel"
name="channel" aria-label="[[Channel]]">{channels}</select>
<button type="submit">[[Switch]]</button></form>
<form class="logout" method="post" action="{logout}">{csrf}<span>{user}</span><button
type="submit">[[Log out]]</button></form>"""
NOTICE = '<p class="notice" role="status">{said}</p>'
ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect "
    "width='16' height='16' rx='3' fill='%230b5cad'/%3E"
    "%3Cpath d='M8 3v7M5 7.5 8 10.5l3-3M4 13h8' fill='none' stroke='white' "
    "stroke-width='1.6'/%3E%3C/svg%3E"
)


class PageRequest:
    """A request to the admin site.

    `form` and `folder` (for its files) are set for a POST; `problem` is what made the POST fail.
    """

    def __init__(self, environ: Environ, store: Store, settings: Settings, fleet: Fleet) -> None:
        self.environ = environ
        self.store = store
        self.settings = settings
        self.fleet = fleet
        self.root = quote(environ.get("SCRIPT_NAME", "").rstrip("/"), encoding="latin-1") + BASE
        self.query = _query(environ.get("QUERY_STRING", ""))
        self.cookies = _cookies(environ.get("HTTP_COOKIE", ""))
        chosen = self.cookies.get(LANGUAGE_COOKIE, "")
        self.language = chosen if chosen in LOCALES else language_of(environ)
        self.channel = self.query.get("channel", STABLE)
        self.channels: List[str] = []
        self.version = ""  # the one in the path
        self.session: Optional[Session] = None
        self.form = Form({}, {})
        self.folder = Path()
        self.problem: Optional[Problem] = None

    @property
    def who(self) -> str:
        """The user, as the log names people."""
        return f"user {self.session.user}" if self.session else ""

    @property
    def action(self) -> str:
        return self.form.fields.get("action", "")

    def field(self, name: str) -> str:
        r"""A field's text with \n as line end (forms send \r\n)."""
        return self.form.fields.get(name, "").replace("\r\n", "\n")

    # --- texts and links

    def html(self, template: str, **values: object) -> Html:
        return fill(template, self.language, **values)

    def say(self, english: str, **values: object) -> str:
        return text(english, self.language).format(**values)

    def url(self, page: str, /, **query: object) -> str:
        """A page's address, in this channel unless `channel` says another."""
        given = {"channel": self.channel, **query}
        asked = {
            name: str(value)
            for name, value in given.items()
            if value not in ("", None) and (name, value) != ("channel", STABLE)
        }
        return self.root + page + ("?" + urlencode(asked) if asked else "")

    def release_url(self, version: str, page: str = "", /, **query: object) -> str:
        return self.url(f"versions/{quote(version, safe='')}/{page}", **query)

    def here(self, **query: object) -> str:
        """This page with another query."""
        page = quote(self.environ.get("PATH_INFO", "").encode("latin-1"))[len(BASE) :]
        return self.url(page, **{**self.query, **query})

    def csrf(self) -> Html:
        return self.html(
            '<input type="hidden" name="csrf" value="{csrf}">',
            csrf=self.session.csrf if self.session else "",
        )

    def options(self, names: Iterable[str], chosen: str = "") -> Html:
        """What a select or a datalist offers."""
        return join(
            self.html(
                "<option{selected}>{name}</option>",
                name=name,
                selected=Html(" selected" if name == chosen else ""),
            )
            for name in names
        )

    # --- answers

    def render_page(
        self, title: str, body: Html, status: int = 200, headers: Headers = ()
    ) -> Answer:
        """A whole page; `title` is English and said in the reader's language, unless it is Html."""
        other = "zh" if self.language == ENGLISH else "en"
        notice, cookies = self._notice()
        content = self.html(
            FRAME,
            locale=LOCALES[self.language],
            title=title if isinstance(title, Html) else self.say(title),
            icon=Html(ICON),
            style=self.root + style.NAME,
            script=self.root + script.NAME,
            head=self._head(),
            notice=notice,
            error=self._error(),
            body=body,
            switch=self.here(lang=other),
            other_locale=LOCALES[other],
            other="中文" if other == "zh" else "English",
        )
        return Answer(
            status,
            content.encode("utf-8"),
            (("Content-Type", "text/html; charset=utf-8"), *headers, *cookies),
        )

    def redirect(
        self,
        url: str,
        notice: str = "",
        version: str = "",
        status: int = 303,
        cookies: Headers = (),
    ) -> Answer:
        """Go on to a page of ours, which says what has happened."""
        if notice:
            cookies = (
                *cookies,
                self.cookie(NOTICE_COOKIE, quote(f"{notice} {version}"), NOTICE_SECONDS),
            )
        return Answer(
            status,
            b"",
            (("Location", url), ("Content-Type", "text/plain; charset=utf-8"), *cookies),
        )

    def cookie(self, name: str, value: str, seconds: int) -> Tuple[str, str]:
        secure = "; Secure" if self.environ["wsgi.url_scheme"] == "https" else ""
        return (
            "Set-Cookie",
            f"{name}={value}; Path={self.root}; Max-Age={seconds}; HttpOnly; "
            f"SameSite=Strict{secure}",
        )

    def _head(self) -> Html:
        if self.session is None:
            return Html("")
        current = self.environ.get("PATH_INFO", "")[len(BASE) :]
        links = join(
            self.html(
                '<li><a href="{url}"{current}>{name}</a></li>',
                url=self.url(page),
                name=self.say(name),
                current=Html(' aria-current="page"' if page == current else ""),
            )
            for page, name in PAGES
        )
        channels = self.options(
            sorted({STABLE, self.channel, *self.channels}, key=lambda name: (name != STABLE, name)),
            self.channel,
        )
        return self.html(
            HEAD,
            links=links,
            channels=channels,
            logout=self.root + "logout/",
            csrf=self.csrf(),
            user=self.session.user,
        )

    def _notice(self) -> Tuple[Html, Headers]:
        """The notice that the cookie names, and the header that deletes the cookie.

        A request by the script leaves it: nobody sees the answer's page.
        """
        if NOTICE_COOKIE not in self.cookies or "HTTP_X_REQUESTED_WITH" in self.environ:
            return Html(""), ()
        name, _, version = unquote(self.cookies[NOTICE_COOKIE]).partition(" ")
        said = self.say(NOTICES[name], version=version) if name in NOTICES else ""
        return self.html(NOTICE if said else "", said=said), (self.cookie(NOTICE_COOKIE, "", 0),)

    def _error(self) -> Html:
        if self.problem is None:
            return Html("")
        return self.html(
            '<p class="error" role="alert">{sentence}</p>',
            sentence=say_problem(self.problem, self.language),
        )

    # --- values

    def time(self, moment: Optional[int]) -> Html:
        """A time of the database; the script shows it in the browser's zone."""
        if moment is None:
            return self.html("[[never]]")
        exact = rfc3339(moment)
        return self.html(
            '<time datetime="{machine}" title="{exact} UTC">{shown} UTC</time>',
            machine=exact[:19] + "Z",
            exact=exact[:19].replace("T", " "),
            shown=exact[:16].replace("T", " "),
        )

    def facts(self, names: Sequence[str], values: Sequence[object]) -> Html:
        """Names and what they are, for a list of facts."""
        return join(
            self.html(
                "<div><dt>{name}</dt><dd>{value}</dd></div>", name=self.say(name), value=value
            )
            for name, value in zip(names, values)
        )


def size(count: int) -> str:
    """Bytes for people, in powers of ten."""
    if count < 1000:
        return f"{count} B"
    amount = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        amount /= 1000
        if amount < 999.95:
            break
    return f"{amount:.1f} {unit}"


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _query(text: str) -> Dict[str, str]:
    try:
        return dict(parse_qsl(text, max_num_fields=32))
    except ValueError:
        return {}


def _cookies(header: str) -> Dict[str, str]:
    """The cookies of a Cookie header (RFC 6265, 5.4); of two with one name the last.

    Not by http.cookies: before Python 3.13 it needs quadratic time for backslashes (CVE-2024-7592).
    """
    found: Dict[str, str] = {}
    for part in header.split(";"):
        name, _, value = part.partition("=")
        found[name.strip()] = value.strip().strip('"')
    return found
