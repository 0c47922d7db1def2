"""Who may do what: the tokens that publish, and the users of this site."""

from __future__ import annotations

from .. import auth
from ..auth import AuthProblem
from ..refused import no_such_action
from ..responses import Answer
from .markup import Html, join
from .page import PageRequest

MIN_PASSWORD = 8

TOKENS = """{made}<form class="panel inline" method="post">{csrf}<p><label for="name">[[Name of a new token, such as the machine that will use it]]</label>
<input id="name" name="name" required maxlength="64" autocomplete="off" value="{name}"><button type="submit" name="action" value="create" class="primary">[[Make a token]]</button></p></form>
<table class="cards"><thead><tr><th scope="col">[[Name]]</th><th scope="col">[[Created]]</th><th scope="col">[[Last used]]</th><th scope="col" class="do">[[Actions]]</th></tr></thead><tbody>{rows}</tbody></table>"""
TOKEN = """<tr data-token="{name}"><td><b>{name}</b><td><span class="label">[[Created]] </span>{created}<td><span class="label">[[Last used]] </span>{used}\
<td class="do"><form method="post">{csrf}<input type="hidden" name="name" value="{name}"><button type="submit" name="action" value="revoke">[[Revoke]]</button></form>
"""
MADE = """<div class="notice" role="status"><p>[[This is the token {name}. It is shown only now: copy it to where it will be used.]]</p>
<p class="copy"><code class="token">{secret}</code></p></div>"""

USERS = """<table class="cards"><thead><tr><th scope="col">[[User]]</th><th scope="col">[[Created]]</th><th scope="col" class="do">[[Actions]]</th></tr></thead><tbody>{rows}</tbody></table>
<div class="pair"><form class="panel" method="post">{csrf}<h2>[[Add a user]]</h2>
<p><label for="name">[[User]]</label><input id="name" name="name" required maxlength="64" autocomplete="off" autocapitalize="none" value="{name}"></p>
<p><label for="password">[[Password, at least 8 characters]]</label><input id="password" name="password" type="password" required minlength="8" autocomplete="new-password"></p>
<p><button type="submit" name="action" value="add" class="primary">[[Add]]</button></p></form>
<form class="panel" method="post">{csrf}<h2>[[Change a password]]</h2><p>[[It ends all sessions of the user.]]</p>
<p><label for="whose">[[User]]</label><select id="whose" name="name">{options}</select></p>
<p><label for="new">[[Password, at least 8 characters]]</label><input id="new" name="password" type="password" required minlength="8" autocomplete="new-password"></p>
<p><button type="submit" name="action" value="password">[[Change]]</button></p></form></div>"""
USER = """<tr data-user="{name}"><td><b>{name}</b> {state}<td><span class="label">[[Created]] </span>{created}\
<td class="do"><form method="post">{csrf}<input type="hidden" name="name" value="{name}">{button}</form>
"""
DISABLED = '<span class="badge off">[[disabled]]</span>'
DISABLE = '<button type="submit" name="action" value="disable">[[Disable]]</button>'
ENABLE = '<button type="submit" name="action" value="enable">[[Enable]]</button>'


def show_tokens(visit: PageRequest, made: Html = Html("")) -> Answer:
    """The tokens, and the form for a new one."""
    rows = join(
        visit.html(
            TOKEN,
            name=token.name,
            created=visit.time(token.created_at),
            used=visit.time(token.last_used_at),
            csrf=visit.csrf(),
        )
        for token in auth.list_tokens(visit.store.database)
    )
    return visit.page(
        "Tokens",
        visit.html(
            TOKENS,
            made=made,
            csrf=visit.csrf(),
            rows=rows,
            name="" if made else visit.field("name"),
        ),
    )


def act_on_tokens(visit: PageRequest) -> Answer:
    """Make a token and show it this once, or revoke one."""
    name = visit.field("name").strip()
    if visit.action == "revoke":
        auth.revoke_token(visit.store.database, visit.field("name"), visit.who)
        return visit.redirect(visit.url("tokens/"), "revoked", name)
    if visit.action not in ("create", ""):
        raise no_such_action(visit.action)
    secret = auth.create_token(visit.store.database, name, visit.who)
    return show_tokens(visit, visit.html(MADE, name=name, secret=secret))


def show_users(visit: PageRequest) -> Answer:
    """The users, and forms to add one and to change a password."""
    users = auth.list_users(visit.store.database)
    rows = join(
        visit.html(
            USER,
            name=user.name,
            created=visit.time(user.created_at),
            csrf=visit.csrf(),
            state="" if user.is_enabled else visit.html(DISABLED),
            button=visit.html(DISABLE if user.is_enabled else ENABLE),
        )
        for user in users
    )
    options = visit.options(
        (user.name for user in users), visit.session.user if visit.session else ""
    )
    typed = visit.field("name") if visit.action == "add" else ""
    return visit.page(
        "Users", visit.html(USERS, rows=rows, csrf=visit.csrf(), options=options, name=typed)
    )


def act_on_users(visit: PageRequest) -> Answer:
    """Add a user, change a password, disable or enable."""
    database, name, password = (
        visit.store.database,
        visit.field("name"),
        visit.form.fields.get("password", ""),
    )
    if visit.action in ("add", "password") and len(password) < MIN_PASSWORD:
        raise AuthProblem("a password has at least {count} characters", count=MIN_PASSWORD)
    if visit.action == "add":
        name = name.strip()
        auth.create_user(database, name, password, visit.who)
        return visit.redirect(visit.url("users/"), "user_added", name)
    if visit.action == "password":
        auth.set_password(database, name, password, visit.who)
    elif visit.action in ("enable", "disable"):
        auth.set_enabled(database, name, visit.action == "enable", visit.who)
    else:
        raise no_such_action(visit.action)
    return visit.redirect(visit.url("users/"), "user_changed", name)
