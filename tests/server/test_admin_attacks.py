"""What an attacker tries on the admin site, from another origin, with a guess, with a stolen
cookie, with markup.
"""

from __future__ import annotations

import csv
import http.client
import io
import re
import time
from pathlib import Path
from typing import Any, Dict, Set
from urllib.parse import quote

import pytest

from nuitkal_mini.server import auth, create_app
from nuitkal_mini.server.api import Settings
from nuitkal_mini.server.application import Application
from tests.support import start_server

from .caller import Caller, Reply
from .visitor import PASSWORD, Visitor, make_visitor

MARKUP = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{csrf}[[Name]]"
PAGES = [
    "",
    "upload/",
    "versions/1.0/",
    "versions/1.0/delete/",
    "fleet/",
    "tokens/",
    "users/",
    "log/",
    "overview/",
    "log.csv",
]
POSTS: Dict[str, Dict[str, Any]] = {
    "": {"action": "activate", "version": "1.0"},
    "upload/": {"version": "2.0", "file": b"x"},
    "versions/1.0/": {"action": "save", "changelog": "evil"},
    "versions/1.0/delete/": {"action": "delete"},
    "tokens/": {"action": "create", "name": "evil"},
    "users/": {"action": "add", "name": "evil", "password": "12345678"},
    "logout/": {},
}


@pytest.fixture
def visitor(app: Application, call: Caller, quick_passwords: None) -> Visitor:
    assert call.upload("1.0", {"a": b"a"}, is_active="false").status == 201
    return make_visitor(app)


def said(reply: Reply) -> str:
    found = re.search(r'class="error" role="alert">(.*?)</p>', reply.text)
    return found[1] if found else ""


def log_of(app: Application, action: str) -> int:
    with app.store.database.read() as db:
        return int(db.execute("SELECT count(*) FROM log WHERE action = ?", (action,)).fetchone()[0])


def is_logged_in(visitor: Visitor) -> bool:
    return visitor.get("tokens/").status == 200


# --- forged requests ------------------------------------------------------------------------------


@pytest.mark.parametrize("page", POSTS)
def test_no_form_counts_without_the_sessions_csrf_token(
    app: Application, visitor: Visitor, page: str
) -> None:
    other = make_visitor(app, name="mallory")
    before = log_of(app, "login")
    for forged in ("", "x", other.csrf):
        assert visitor.post(page, **{**POSTS[page], "csrf": forged}).status == 403
    assert is_logged_in(visitor) and log_of(app, "login") == before
    assert (
        log_of(app, "edit") + log_of(app, "delete") + log_of(app, "activate") == 0
        and "evil" not in visitor.get("tokens/").text
    )


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"HTTP_ORIGIN": "http://evil.test"}, id="another host"),
        pytest.param({"HTTP_ORIGIN": "http://updates.test:8001"}, id="another port"),
        pytest.param(
            {"HTTP_ORIGIN": "http://updates.test.evil.test"}, id="a host that begins like ours"
        ),
        pytest.param({"HTTP_ORIGIN": "null"}, id="a sandboxed frame"),
        pytest.param({"HTTP_ORIGIN": "http://["}, id="not a URL"),
        pytest.param(
            {"HTTP_REFERER": "http://evil.test/http://updates.test/"}, id="a referrer alone"
        ),
        pytest.param({"HTTP_SEC_FETCH_SITE": "cross-site"}, id="the browser says so"),
    ],
)
@pytest.mark.parametrize("page", ["tokens/", "login/"])
def test_a_form_from_another_origin_is_refused_even_with_the_right_token(
    visitor: Visitor, page: str, headers: Dict[str, str]
) -> None:
    reply = visitor.post(
        page, headers, action="create", name="evil", username="admin", password=PASSWORD
    )
    assert reply.status == 403 and not reply.cookies
    assert (
        visitor.post(
            "tokens/", {"HTTP_ORIGIN": "http://updates.test"}, action="create", name="mine"
        ).status
        == 200
    )


@pytest.mark.parametrize("page", PAGES + ["nothing/"])
def test_without_a_login_every_page_leads_to_the_login(
    app: Application, visitor: Visitor, page: str
) -> None:
    stranger = Visitor(app)
    reply = stranger.get(page)
    assert (
        reply.status == 302
        and reply.headers["location"].startswith("/admin/login/?next=%2Fadmin%2F")
        and not reply.body
    )
    assert stranger.post(page, csrf=visitor.csrf).status == 302


@pytest.mark.parametrize("kind", ["", "text/plain", "application/json"])
def test_what_is_no_form_has_no_token_either(visitor: Visitor, kind: str) -> None:
    assert (
        visitor.post("tokens/", {"CONTENT_TYPE": kind}, action="create", name="evil").status == 403
    )


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_other_methods_do_nothing(visitor: Visitor, method: str) -> None:
    assert visitor._visit(method, "versions/1.0/", b"", {}).status == 405


# --- sessions -------------------------------------------------------------------------------------


def test_a_session_that_was_prepared_by_somebody_else_is_not_taken_over(app: Application) -> None:
    visitor = make_visitor(app, logged_in=False)
    visitor.cookies["nuitkal_session"] = "prepared"
    visitor.log_in()
    assert visitor.cookies["nuitkal_session"] != "prepared"
    first = visitor.cookies["nuitkal_session"]
    visitor.log_in()
    assert visitor.cookies["nuitkal_session"] != first  # a new one for every login


def test_a_stolen_cookie_is_worth_nothing_after_the_logout(
    app: Application, visitor: Visitor
) -> None:
    thief = Visitor(app)
    thief.cookies = dict(visitor.cookies)
    assert is_logged_in(thief)
    assert visitor.post("logout/").status == 303
    assert not is_logged_in(thief) and not is_logged_in(visitor)


@pytest.mark.parametrize("end", ["password", "disable"])
def test_a_new_password_and_disabling_end_all_sessions(
    app: Application, visitor: Visitor, end: str
) -> None:
    boss = make_visitor(app, name="boss")
    assert boss.post("users/", action=end, name="admin", password="another password").status == 303
    assert not is_logged_in(visitor) and is_logged_in(boss)
    assert visitor.log_in().status == 401
    assert (visitor.log_in(password="another password").status == 303) == (end == "password")


@pytest.mark.parametrize(
    "hours, used_hours_ago, holds",
    [(1, 11.9, True), (1, 12.1, False), (167, 1, True), (169, 1, False)],
)
def test_a_session_ends_after_twelve_idle_hours_and_after_seven_days(
    app: Application, visitor: Visitor, hours: int, used_hours_ago: float, holds: bool
) -> None:
    moment = time.time_ns() // 1000
    with app.store.database.write() as db:
        db.execute(
            "UPDATE sessions SET created_at = ?, used_at = ?",
            (moment - hours * 3600 * 10**6, moment - int(used_hours_ago * 3600 * 10**6)),
        )
    assert is_logged_in(visitor) == holds


def test_the_database_does_not_hold_what_opens_a_session(
    app: Application, visitor: Visitor
) -> None:
    app.store.database.close()
    stored = b"".join(
        path.read_bytes() for path in app.store.database.path.parent.glob("nuitkal.db*")
    )
    assert (
        visitor.cookies["nuitkal_session"].encode() not in stored
        and visitor.csrf.encode() not in stored
    )
    assert PASSWORD.encode() not in stored


@pytest.mark.parametrize("scheme, secure", [("http", False), ("https", True)])
def test_the_cookie_is_for_this_site_and_no_script_and_for_tls_alone_where_there_is_tls(
    app: Application, scheme: str, secure: bool
) -> None:
    reply = make_visitor(app, logged_in=False).log_in(**{"wsgi.url_scheme": scheme})
    attributes = reply.cookies[0].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/admin/"} < set(attributes) and (
        "Secure" in attributes
    ) == secure


# --- guessing -------------------------------------------------------------------------------------


def test_an_unknown_user_takes_as_long_as_a_known_one(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each login stretches one password with the same parameters: that is what takes the time."""
    visitor, stretched = make_visitor(app, logged_in=False), []
    matches = auth.password_matches

    def counted(password: str, stored: str) -> bool:
        stretched.append(stored.split("$")[:2])
        return matches(password, stored)

    monkeypatch.setattr(auth, "password_matches", counted)
    known, unknown = (
        visitor.log_in(name, "wrong").text.replace(f'value="{name}"', "")
        for name in ("admin", "nobody")
    )
    assert known == unknown
    assert len(stretched) == 2 and stretched[0] == stretched[1]


# --- redirects ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wanted",
    [
        "//evil.test",
        "//evil.test/admin/",
        "https://evil.test/admin/",
        "/admin//evil.test",
        "/\\evil.test",
        "/admin/\\evil",
        "\\\\evil.test",
        "javascript:alert(1)",
        "/admin/x\r\nSet-Cookie: a=b",
        "/\tevil.test",
        "evil.test/admin/",
        "/other/",
        "",
        "/admin/../..//evil.test",
        "/admin/@evil\u2028",
        "/admin/../other/",
        "/admin/%2E%2e/",
    ],
)
def test_the_login_leads_nowhere_else(app: Application, quick_passwords: None, wanted: str) -> None:
    reply = make_visitor(app, logged_in=False).log_in(page="login/?next=" + quote(wanted))
    assert reply.status == 303 and reply.headers["location"] == "/admin/"


def test_the_login_goes_on_to_where_one_wanted_to_go(app: Application, visitor: Visitor) -> None:
    wanted = "versions/1.0%2Bx/?channel=beta&folder=lib/q"
    login = Visitor(app).get(wanted).headers["location"]
    assert visitor.log_in(page=login).headers["location"] == "/admin/" + wanted


# --- markup ---------------------------------------------------------------------------------------


def test_what_came_from_outside_is_shown_as_text_everywhere(app: Application, call: Caller) -> None:
    visitor = make_visitor(app)
    assert (
        call.upload("1.0", {"a": b"a", "it's &amp;b{x}[[y]].txt": b"x"}, changelog=MARKUP).status
        == 201
    )
    assert visitor.post("tokens/", action="create", name=MARKUP[:60]).status == 200
    assert visitor.post("users/", action="add", name=MARKUP[:60], password="12345678").status == 303
    visitor.log_in(MARKUP[:60], "wrong")
    call.get("check/", QUERY_STRING="version=1.0")
    for page in PAGES[:-1] + [
        f"?q={MARKUP}",
        f"log/?who={MARKUP}",
        f"versions/1.0/?folder={MARKUP}",
        f"versions/{MARKUP}/",
        f"?sort={MARKUP}",
        f"?channel={MARKUP}",
    ]:
        reply = visitor.get(quote(page, safe="/?="))
        assert reply.status in (200, 404), page
        for piece in ("<script>a", "<img", "onerror=alert(1)>", "\"'>"):
            assert piece not in reply.text, page
    assert (
        "&lt;script&gt;alert(1)&lt;/script&gt;" in visitor.get("").text
        and "{csrf}[[Name]]" in visitor.get("versions/1.0/").text
    )
    assert "it&#x27;s &amp;amp;b{x}[[y]].txt" in visitor.get("versions/1.0/").text


def test_markup_in_a_refused_form_comes_back_as_text(visitor: Visitor) -> None:
    reply = visitor.post("upload/", version=MARKUP, changelog=MARKUP, channel=MARKUP, file=b"x")
    assert reply.status == 404 and "<script>a" not in reply.text and MARKUP[:1] in reply.text
    reply = visitor.post("login/", username=MARKUP, password="x")
    assert reply.status == 401 and "<script>a" not in reply.text


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_the_log_as_csv_runs_no_formula(app: Application, visitor: Visitor, name: str) -> None:
    assert visitor.post("tokens/", action="create", name=name).status == 200
    reply = visitor.get("log.csv")
    cells = list(csv.reader(io.StringIO(reply.body.decode("utf-8-sig"))))
    assert ["user admin", "token_create", "'" + name] in [row[1:] for row in cells]
    assert reply.headers["content-disposition"] == 'attachment; filename="log.csv"'


def test_nothing_typed_reaches_a_header(visitor: Visitor) -> None:
    for reply in (
        visitor.post("", action="delete", version="1.0\r\nSet-Cookie: a=b"),
        visitor.post("versions/1.0/", action="promote", to="x\r\ny"),
    ):
        assert "set-cookie" not in reply.headers and all(
            "\n" not in value for value in reply.headers.values()
        )


def test_a_notice_that_the_site_never_gave_is_not_shown(visitor: Visitor) -> None:
    visitor.cookies["nuitkal_notice"] = "<script>"
    assert "<script>" not in visitor.get().text
    visitor.cookies["nuitkal_notice"] = "uploaded%20<b>{0}"
    assert "Version &lt;b&gt;{0} was uploaded." in visitor.get().text


# --- headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES + ["login/", "nothing/", "?channel=BAD"])
def test_every_answer_is_kept_from_caches_frames_and_inline_scripts(
    visitor: Visitor, page: str
) -> None:
    reply = visitor.get(page)
    policy = reply.headers["content-security-policy"].split("; ")
    assert (
        policy[0] == "default-src 'none'"
        and "frame-ancestors 'none'" in policy
        and "base-uri 'none'" in policy
        and "unsafe" not in str(policy)
    )
    assert (
        reply.headers["cache-control"] == "no-store"
        and reply.headers["x-content-type-options"] == "nosniff"
        and reply.headers["referrer-policy"] == "same-origin"
    )
    assert not re.search(r"<(script|style)>| style=| on\w+=\"|javascript:", reply.text)


# --- where it is ----------------------------------------------------------------------------------


def test_there_is_no_site_where_there_shall_be_none(data: Path) -> None:
    app = create_app(data, admin=False)
    assert Visitor(app).get("login/").status == 404  # type: ignore[arg-type]
    app.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "admin_host, host, local, there",
    [
        ("admin.test", "admin.test:8000", "10.0.0.1", True),
        ("admin.test", "updates.test", "10.0.0.1", False),
        ("127.0.0.1", "127.0.0.1:8000", "127.0.0.1", True),
        ("127.0.0.1", "localhost:8000", "127.0.0.1", True),
        ("127.0.0.1", "updates.test", "127.0.0.1", False),
        ("127.0.0.1", "127.0.0.1", "10.0.0.1", False),
        ("10.0.0.1", "10.0.0.1", "::ffff:10.0.0.1", True),
        ("::1", "[::1]:8000", "::1", True),
    ],
)
def test_the_site_is_there_under_its_host_only(
    data: Path, admin_host: str, host: str, local: str, there: bool
) -> None:
    app = Application(data, Settings(admin_host=admin_host))
    assert Visitor(app).get(
        "login/", HTTP_HOST=host, **{"nuitkal.local_address": local}
    ).status == (200 if there else 404)
    front = Visitor(app).get(
        "/", HTTP_HOST=host, HTTP_ACCEPT="text/html,*/*;q=0.8", **{"nuitkal.local_address": local}
    )
    assert (front.status, front.headers.get("location")) == (
        (302, "/admin/") if there else (404, None)
    )
    app.close()


def test_the_flags_keep_the_site_away(data: Path) -> None:
    def statuses(port: int, host: str) -> Set[int]:
        connection = http.client.HTTPConnection(host, port, timeout=20)
        codes = set()
        for path in ("/", "/admin/login/"):
            connection.request("GET", path, headers={"Accept": "text/html"})
            answer = connection.getresponse()
            answer.read()
            codes.add(answer.status)
        connection.close()
        return codes

    with start_server(data, "--no-admin") as server:
        assert statuses(int(server.url.split(":")[2][:-1]), "127.0.0.1") == {404}
    with start_server(data, "--host", "0.0.0.0", "--admin-host", "127.0.0.2") as server:
        port = int(server.url.split(":")[2][:-1])
        assert (statuses(port, "127.0.0.1"), statuses(port, "127.0.0.2")) == ({404}, {302, 200})
