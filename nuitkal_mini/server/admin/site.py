"""The admin site's entry: checks who asks and from where, then calls the page.

Every POST passes these checks in order: the session, the Origin (this Host), the form, its CSRF
token. When an action raises, the page of the same address shows the error above what was typed.
Every answer carries the same headers: it is not stored, framed, sniffed or loaded from another
site, and no inline script or style runs.
"""

from __future__ import annotations

import hmac
import re
from typing import Callable, Dict, List, Optional, Tuple
from urllib.parse import SplitResult, quote, urlsplit

from .. import sessions
from ..api import Settings, parse_channel
from ..auth import check_login
from ..database import log_failed_login
from ..fleet import Fleet
from ..multipart import content_length, parse_form
from ..refused import Headers, Refused, method_not_allowed, not_found, to_refusal
from ..releases import STABLE, channels
from ..responses import Answer, Environ, allow_long_body, parse_address
from ..store import Store
from . import access, history, overview, release, release_list, script, style, usage
from . import upload as uploading
from .markup import Html
from .page import BASE, LANGUAGE_COOKIE, LOCALES, PageRequest

SESSION_COOKIE = "nuitkal_session"
MAX_FORM = 2 * 2**20  # of every form but the upload's: a changelog, URL-encoded, and a signature
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
YEAR_SECONDS = 365 * 24 * 3600

Page = Callable[[PageRequest], Answer]

HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src "
        "'self' data:; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    # With no-referrer, browsers would send "Origin: null" with our own forms
    (
        "Referrer-Policy",
        "same-origin",
    ),
)
NOT_STORED = ("Cache-Control", "no-store")
# Their names change with their contents
FOR_EVER = (
    "Cache-Control",
    "public, max-age=31536000, immutable",
)

# Local addresses of this site and nothing else: no scheme, no host, no backslash that browsers take
# for a slash, no way up.
_NEXT = re.compile(r"/admin/(?!/)(?!.*(?:[.]|%2[eE]){2})(?:[A-Za-z0-9._~%+=&?-]|/(?!/))*")

LOGIN = """<form class="panel narrow" method="post" action="{action}">
<p><label for="username">[[User]]</label><input id="username" name="username"
autocomplete="username" autocapitalize="none" required autofocus value="{username}"></p>
<p><label for="password">[[Password]]</label><input id="password" name="password" type="password"
autocomplete="current-password" required></p>
<p><button type="submit" class="primary">[[Log in]]</button></p></form>"""
WRONG = '<p class="error" role="alert">[[The user or the password is wrong.]]</p>'


class Site:
    """Everything below /admin/."""

    def __init__(self, store: Store, settings: Settings, fleet: Fleet) -> None:
        self._store = store
        self._database = store.database
        self._settings = settings
        self._fleet = fleet

    def answer(self, environ: Environ, path: str) -> Answer:
        """The answer to a request at or below /admin/, or for / by a browser.

        Raises:
            Refused: not_found, where --admin-host hides the site.
        """
        _check_host(environ, self._settings.admin_host)
        request = PageRequest(environ, self._store, self._settings, self._fleet)
        try:
            reply = (
                request.redirect(request.root, status=302)
                if path == "/"
                else self._answer(request, path[len(BASE) :])
            )
        except ConnectionError:
            raise  # the client has gone
        except Exception as error:
            request.problem = refused = to_refusal(error)
            reply = request.render_page(
                "That did not work", Html(""), refused.status, refused.headers
            )
        kept = () if any(name == "Cache-Control" for name, _ in reply.headers) else (NOT_STORED,)
        return reply._replace(headers=reply.headers + HEADERS + kept)

    def _answer(self, request: PageRequest, path: str) -> Answer:
        if path in (style.NAME, script.NAME):
            asset = style if path == style.NAME else script
            return Answer(200, asset.BODY, (("Content-Type", asset.TYPE), FOR_EVER))
        is_post = request.environ["REQUEST_METHOD"] == "POST"
        if request.environ["REQUEST_METHOD"] not in ("GET", "HEAD", "POST"):
            raise method_not_allowed(request.environ["REQUEST_METHOD"], "GET, HEAD, POST")
        if is_post:
            _check_origin(request.environ, self._settings.public_url)
        elif request.query.get("lang") in LOCALES:
            return _switch_language(request)
        parts = path.rstrip("/").split("/")
        request.session = sessions.find(self._database, request.cookies.get(SESSION_COOKIE, ""))
        if parts == ["login"]:
            return self._log_in(request) if is_post else _show_login(request)
        if request.session is None:
            return request.redirect(
                request.root + "login/?next=" + quote(_target(request), safe=""), status=302
            )
        allow_long_body(request.environ)
        return self._post(request, parts) if is_post else self._page(request, PAGES, parts)

    # --- pages

    def _page(
        self, request: PageRequest, pages: Dict[Tuple[str, int], Page], parts: List[str]
    ) -> Answer:
        page = _find(pages, parts)
        given, request.channel = request.channel, STABLE  # whose page says so if it cannot be one
        request.channel = parse_channel(given)
        request.version = parts[1] if len(parts) > 1 else ""
        with self._database.read() as db:
            request.channels = channels(db)
        return page(request)

    def _post(self, request: PageRequest, parts: List[str]) -> Answer:
        """What goes wrong is said by the page of the same address, with what was typed."""
        try:
            with self._store.scratch() as request.folder:
                return self._act(request, parts)
        except ConnectionError:
            raise
        except Exception as error:
            request.problem = refused = to_refusal(error)
            if refused.code == "forbidden" or (parts[0], len(parts)) not in PAGES:
                raise refused from error
            shown = self._page(request, PAGES, parts)
            return shown._replace(status=refused.status, headers=shown.headers + refused.headers)

    def _act(self, request: PageRequest, parts: List[str]) -> Answer:
        limit = self._settings.max_upload if parts == ["upload"] else MAX_FORM
        if not request.environ.get("CONTENT_TYPE", "").lower().startswith(FORMS):
            _check_csrf(request)  # no form, no token
        if parts == ["upload"]:
            self._store.require_space(content_length(request.environ, limit) or 0)
        request.form = parse_form(request.environ, request.folder, limit)
        _check_csrf(request)
        if parts == ["logout"]:
            return self._log_out(request)
        return self._page(request, ACTIONS, parts)

    # --- login

    def _log_in(self, request: PageRequest) -> Answer:
        with self._store.scratch() as folder:
            request.form = parse_form(request.environ, folder, MAX_FORM)
        name, address = request.field("username"), request.environ.get("REMOTE_ADDR", "")
        password = request.form.fields.get("password", "")
        try:
            is_right = check_login(self._database, self._store.limiter, name, password, address)
        except Refused as refused:
            request.problem = refused
            return _show_login(request, 429, refused.headers)
        if is_right:
            bits = sessions.begin(self._database, name, address)
            return request.redirect(
                _safe_next(request) or request.root,
                cookies=(request.cookie(SESSION_COOKIE, bits, sessions.LIFE_SECONDS),),
            )
        with self._database.write() as db:
            log_failed_login(db, name, address)
        return _show_login(request, 401)

    def _log_out(self, request: PageRequest) -> Answer:
        if request.session:
            sessions.end(self._database, request.cookies[SESSION_COOKIE], request.session.user)
        return request.redirect(
            request.root + "login/", cookies=(request.cookie(SESSION_COOKIE, "", 0),)
        )


# first word and number of words of a path below /admin/ -> its page
PAGES: Dict[Tuple[str, int], Page] = {
    ("", 1): release_list.show,
    ("upload", 1): uploading.show,
    ("versions", 2): release.show,
    ("versions", 3): release.ask,
    ("fleet", 1): usage.show,
    ("tokens", 1): access.show_tokens,
    ("users", 1): access.show_users,
    ("log", 1): history.show,
    ("log.csv", 1): history.download,
    ("overview", 1): overview.show,
}
ACTIONS: Dict[Tuple[str, int], Page] = {
    ("", 1): release_list.act,
    ("upload", 1): uploading.act,
    ("versions", 2): release.act,
    ("versions", 3): release.act,
    ("tokens", 1): access.act_on_tokens,
    ("users", 1): access.act_on_users,
}


def _find(pages: Dict[Tuple[str, int], Page], parts: List[str]) -> Page:
    page = pages.get((parts[0], len(parts)))
    if page is None or len(parts) == 3 and parts[2] != "delete":
        raise not_found()
    return page


def _show_login(request: PageRequest, status: int = 200, headers: Headers = ()) -> Answer:
    body = request.html(
        LOGIN,
        action=request.root
        + "login/"
        + ("?next=" + quote(request.query["next"], safe="") if _safe_next(request) else ""),
        username=request.field("username"),
    )
    request.session = None  # the frame of somebody who is not logged in
    return request.render_page(
        "Log in", Html((request.html(WRONG) if status == 401 else "") + body), status, headers
    )


def _switch_language(request: PageRequest) -> Answer:
    return request.redirect(
        request.here(lang=""),
        status=302,
        cookies=(request.cookie(LANGUAGE_COOKIE, request.query["lang"], YEAR_SECONDS),),
    )


def _target(request: PageRequest) -> str:
    """Where to go on after the login, below the place where this application is mounted."""
    query = request.environ.get("QUERY_STRING", "")
    return quote(request.environ.get("PATH_INFO", "").encode("latin-1")) + (
        f"?{query}" if query else ""
    )


def _safe_next(request: PageRequest) -> Optional[str]:
    wanted = request.query.get("next", "")
    return request.root + wanted[len(BASE) :] if _NEXT.fullmatch(wanted) else None


# --- who may call -------------------------------------------------------------------------------


def _check_origin(environ: Environ, public_url: Optional[str]) -> None:
    """Refuse a form of another site.

    Browsers send Origin or Referer; programs that send neither have nobody's cookies.
    """
    origin = environ.get("HTTP_ORIGIN") or environ.get("HTTP_REFERER")
    ours = {environ.get("HTTP_HOST", "").lower(), urlsplit(public_url or "").netloc.lower()}
    if (
        origin
        and _split(origin).netloc.lower() not in ours - {""}
        or environ.get("HTTP_SEC_FETCH_SITE") == "cross-site"
    ):
        raise Refused(
            "forbidden",
            "this form was sent from another site, or a proxy changed its Host header; let it "
            "pass that on, or set --public-url",
        )


def _split(url: str) -> SplitResult:
    """The parts of a URL; all empty when it is none, such as `http://[`."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _check_csrf(request: PageRequest) -> None:
    given = request.form.fields.get("csrf", "")
    if request.session is None or not hmac.compare_digest(
        given.encode("utf-8", "surrogatepass"), request.session.csrf.encode()
    ):
        raise Refused("forbidden", "this form is of an earlier login; load the page again")


def _check_host(environ: Environ, admin_host: Optional[str]) -> None:
    """With --admin-host, hide the site under every other name.

    An address must also be the one that the connection was made to.
    """
    if admin_host is None:
        return
    host, wanted = (
        _split("//" + environ.get("HTTP_HOST", "")).hostname or "",
        parse_address(admin_host),
    )
    if wanted is None:
        is_here = host == admin_host.lower()
    else:
        is_here = wanted == parse_address(environ.get("nuitkal.local_address", "")) and (
            wanted == parse_address(host) or wanted.is_loopback and host == "localhost"
        )
    if not is_here:
        raise not_found()
