"""The page of the log, and its CSV."""

from __future__ import annotations

import csv
import io
from typing import List, NamedTuple

from .. import auth
from ..releases import rfc3339
from ..responses import Answer
from .markup import Html, join
from .page import PageRequest

ROWS = 50
MAX_CSV_ROWS = 100_000  # the newest; some 8 MB, held in memory once

ACTIONS = {  # the log's words for people
    "upload": "upload",
    "promote": "promotion",
    "edit": "edit",
    "activate": "activation",
    "deactivate": "deactivation",
    "delete": "deletion",
    "login": "login",
    "login_failed": "failed login",
    "logout": "logout",
    "token_create": "new token",
    "token_revoke": "revoked token",
    "user_create": "new user",
    "user_password": "new password",
    "user_disable": "disabled user",
    "user_enable": "enabled user",
}

LOG = """<form class="search" method="get"><input type="hidden" name="channel" value="{channel}">
<div><label for="who">[[Who]]</label><input id="who" name="who" list="people" value="{who}">
<datalist id="people">{people}</datalist></div>
<div><label for="action">[[What]]</label><select id="action" name="action"><option
value="">[[everything]]</option>{actions}</select></div>
<button type="submit">[[Show]]</button> <a class="button" href="{csv}">CSV</a></form>
<table class="cards"><thead><tr><th scope="col">[[When]]</th><th scope="col">[[Who]]</th><th
scope="col">[[What]]</th><th scope="col">[[Details]]</th></tr></thead><tbody>{rows}</tbody>
</table>{older}"""
LINE = '<tr data-action="{action}"><td>{time}<td>{who}<td>{what}<td class="line">{detail}\n'
OLDER = '<nav class="pages" aria-label="[[More lines]]"><a href="{url}">[[Older]] →</a></nav>'


class Line(NamedTuple):
    """A line of the log."""

    id: int
    at: int
    who: str
    action: str
    detail: str


def show(request: PageRequest) -> Answer:
    """The log, newest first; `?before=` goes on from a line."""
    lines = _lines(request, ROWS + 1)
    rows = join(
        request.html(
            LINE,
            action=line.action,
            time=request.time(line.at),
            who=line.who,
            what=action_name(request, line.action),
            detail=line.detail,
        )
        for line in lines[:ROWS]
    )
    older = (
        request.html(OLDER, url=request.here(before=lines[ROWS - 1].id))
        if len(lines) > ROWS
        else ""
    )
    database = request.store.database
    people = [f"user {user.name}" for user in auth.list_users(database)] + [
        f"token {token.name}" for token in auth.list_tokens(database)
    ]
    return request.render_page(
        "Log",
        request.html(
            LOG,
            rows=rows or request.html('<tr><td colspan="4">[[Nothing of the kind has happened.]]'),
            older=older,
            channel=request.channel,
            who=request.query.get("who", ""),
            people=request.options(people),
            actions=join(
                request.html(
                    '<option value="{action}"{selected}>{name}</option>',
                    action=action,
                    name=action_name(request, action),
                    selected=Html(" selected" if action == request.query.get("action") else ""),
                )
                for action in ACTIONS
            ),
            csv=request.url(
                "log.csv", who=request.query.get("who", ""), action=request.query.get("action", "")
            ),
        ),
    )


def download(request: PageRequest) -> Answer:
    """The log as CSV (RFC 4180), filtered as the page was."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["time", "who", "action", "detail"])
    for line in _lines(request, MAX_CSV_ROWS):
        writer.writerow(
            [_harmless(cell) for cell in (rfc3339(line.at), line.who, line.action, line.detail)]
        )
    return Answer(
        200,
        out.getvalue().encode("utf-8-sig"),
        (  # with the mark by which spreadsheets know UTF-8
            ("Content-Type", "text/csv; charset=utf-8"),
            ("Content-Disposition", 'attachment; filename="log.csv"'),
        ),
    )


def action_name(request: PageRequest, action: str) -> str:
    return request.say(ACTIONS[action]) if action in ACTIONS else action


def _lines(request: PageRequest, limit: int) -> List[Line]:
    """The log's lines that the query asks for, newest first."""
    wheres: List[str] = []
    values: List[object] = []
    for name, where in (
        ("who", "instr(lower(who), lower(?))"),
        ("action", "action = ?"),
        ("before", "id < ?"),
    ):
        value = request.query.get(name, "").strip()
        if value and (name != "before" or value.isdecimal() and len(value) < 19):
            wheres.append(where)
            values.append(int(value) if name == "before" else value)
    where = "WHERE " + " AND ".join(wheres) if wheres else ""
    with request.store.database.read() as db:
        rows = db.execute(
            f"SELECT id, at, who, action, detail FROM log {where} ORDER BY id DESC LIMIT ?",
            (*values, limit),
        ).fetchall()
    return [Line._make(row) for row in rows]


def _harmless(cell: str) -> str:
    """A spreadsheet runs a cell that begins like a formula: OWASP's remedy is a quote before it."""
    return "'" + cell if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else cell
