"""The pages of tokens and of users."""

from __future__ import annotations

from .. import auth
from ..auth import AuthProblem
from ..refused import no_such_action
from ..responses import Answer
from .markup import Html, join
from .page import PageRequest

MIN_PASSWORD = 8

TOKENS = """{made}<form class="panel inline" method="post">{csrf}<p><label for="name">[[Name of a
new token, such as the machine that will use it]]</label>
<input id="name" name="name" required maxlength="64" autocomplete="off" value="{name}"><button
type="submit" name="action" value="create" class="primary">[[Make a token]]</button></p></form>
<table class="cards"><thead><tr><th scope="col">[[Name]]</th><th scope="col">[[Created]]</th><th
scope="col">[[Last used]]</th><th scope="col" class="do">[[Actions]]</th></tr></thead>
<tbody>{rows}</tbody></table>"""
TOKEN = """<tr data-token="{name}"><td><b>{name}</b><td><span
class="label">[[Created]] </span>{created}<td><span class="label">[[Last used]] </span>{used}\
<td class="do"><form method="post">{csrf}<input type="hidden" name="name" value="{name}"><button
type="submit" name="action" value="revoke">[[Revoke]]</button></form>
"""
MADE = """<div class="notice" role="status"><p>[[This is the token {name}. It is shown only now:
copy it to where it will be used.]]</p>
<p class="copy"><code class="token">{secret}</code></p></div>"""

USERS = """<table class="cards"><thead><tr><th scope="col">[[User]]</th><th
scope="col">[[Created]]</th><th scope="col" class="do">[[Actions]]</th></tr></thead>
<tbody>{rows}</tbody></table>
<div class="pair"><form class="panel" method="post">{csrf}<h2>[[Add a user]]</h2>
<p><label for="name">[[User]]</label><input id="name" name="name" required maxlength="64"
autocomplete="off" autocapitalize="none" value="{name}"></p>
<p><label for="password">[[Password, at least 8 characters]]</label><input id="password"
name="password" type="password" required minlength="8" autocomplete="new-password"></p>
<p><button type="submit" name="action" value="add" class="primary">[[Add]]</button></p></form>
<form class="panel" method="post">{csrf}<h2>[[Change a password]]</h2><p>[[It ends all sessions of
the user.]]</p>
<p><label for="whose">[[User]]</label><select id="whose" name="name">{options}</select></p>
<p><label for="new">[[Password, at least 8 characters]]</label><input id="new" name="password"
type="password" required minlength="8" autocomplete="new-password"></p>
<p><button type="submit" name="action" value="password">[[Change]]</button></p></form></div>"""
USER = """<tr data-user="{name}"><td><b>{name}</b> {state}<td><span
class="label">[[Created]] </span>{created}\
<td class="do"><form method="post">{csrf}<input type="hidden" name="name"
value="{name}">{button}</form>
"""
DISABLED = '<span class="badge off">[[disabled]]</span>'
DISABLE = '<button type="submit" name="action" value="disable">[[Disable]]</button>'
ENABLE = '<button type="submit" name="action" value="enable">[[Enable]]</button>'


def show_tokens(request: PageRequest, made: Html = Html("")) -> Answer:
    """The tokens, and the form for a new one."""
    rows = join(
        request.html(
            TOKEN,
            name=token.name,
            created=request.time(token.created_at),
            used=request.time(token.last_used_at),
            csrf=request.csrf(),
        )
        for token in auth.list_tokens(request.store.database)
    )
    return request.render_page(
        "Tokens",
        request.html(
            TOKENS,
            made=made,
            csrf=request.csrf(),
            rows=rows,
            name="" if made else request.field("name"),
        ),
    )


def act_on_tokens(request: PageRequest) -> Answer:
    """Make a token and show it this once, or revoke one."""
    name = request.field("name").strip()
    if request.action == "revoke":
        auth.revoke_token(request.store.database, request.field("name"), request.who)
        return request.redirect(request.url("tokens/"), "revoked", name)
    if request.action not in ("create", ""):
        raise no_such_action(request.action)
    secret = auth.create_token(request.store.database, name, request.who)
    return show_tokens(request, request.html(MADE, name=name, secret=secret))


def show_users(request: PageRequest) -> Answer:
    """The users, and forms to add one and to change a password."""
    users = auth.list_users(request.store.database)
    rows = join(
        request.html(
            USER,
            name=user.name,
            created=request.time(user.created_at),
            csrf=request.csrf(),
            state="" if user.is_enabled else request.html(DISABLED),
            button=request.html(DISABLE if user.is_enabled else ENABLE),
        )
        for user in users
    )
    options = request.options(
        (user.name for user in users), request.session.user if request.session else ""
    )
    typed = request.field("name") if request.action == "add" else ""
    return request.render_page(
        "Users", request.html(USERS, rows=rows, csrf=request.csrf(), options=options, name=typed)
    )


def act_on_users(request: PageRequest) -> Answer:
    """Add a user, change a password, disable or enable."""
    database, name, password = (
        request.store.database,
        request.field("name"),
        request.form.fields.get("password", ""),
    )
    if request.action in ("add", "password") and len(password) < MIN_PASSWORD:
        raise AuthProblem("a password has at least {count} characters", count=MIN_PASSWORD)
    if request.action == "add":
        name = name.strip()
        auth.create_user(database, name, password, request.who)
        return request.redirect(request.url("users/"), "user_added", name)
    if request.action == "password":
        auth.set_password(database, name, password, request.who)
    elif request.action in ("enable", "disable"):
        auth.set_enabled(database, name, request.action == "enable", request.who)
    else:
        raise no_such_action(request.action)
    return request.redirect(request.url("users/"), "user_changed", name)
