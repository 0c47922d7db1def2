"""The page of the server's disk, its channels, and failed logins."""

from __future__ import annotations

import shutil
import sqlite3
from typing import Dict

from ..database import now
from ..responses import Answer
from .markup import Html, join
from .page import PageRequest, percent, size

DAY = 86400 * 10**6  # microseconds
FAILURES = 10  # logins that failed, shown one by one

PAGE = """<section class="panel"><h2>[[Disk]]</h2><dl class="facts">{disk}</dl></section>
<section class="panel"><h2>[[Channels]]</h2><table><thead><tr><th scope="col">[[Channel]]</th><th
scope="col">[[App]]</th><th scope="col" class="n">[[Releases]]</th><th scope="col">[[Active
version]]</th></tr></thead><tbody>{channels}</tbody></table></section>
<section class="panel"><h2>[[Failed logins]]</h2><p>[[{day} in the last 24 hours, {week} in the last
7 days.]]</p>{failures}</section>"""
FAILED = (
    '<table class="cards"><thead><tr><th scope="col">[[When]]</th><th '
    'scope="col">[[Who]]</th><th scope="col">[[From]]</th></tr></thead><tbody>{rows}</tbody>'
    "</table>"
)
FAILURE = "<tr><td>{time}<td>{who}<td>{address}"
CHANNEL = '<tr><td><a href="{url}">{name}</a><td>{app}<td class="n">{count}<td>{active}'
FACTS = (
    "Packages",
    "Free",
    "Releases",
    "Files in all releases",
    "Different contents",
    "Shared between releases",
)


def show(request: PageRequest) -> Answer:
    """Disk, channels, and logins that failed."""
    with request.store.database.read() as db:
        disk, channels = _disk(request, db), _channels(request, db)
        failures = db.execute(
            "SELECT at, who, detail FROM log WHERE action = 'login_failed' AND at > ? ORDER BY "
            "id DESC LIMIT 1000",
            (now() - 7 * DAY,),
        ).fetchall()
    shown = join(
        request.html(FAILURE, time=request.time(at), who=who, address=address)
        for at, who, address in failures[:FAILURES]
    )
    return request.render_page(
        "Overview",
        request.html(
            PAGE,
            disk=disk,
            channels=channels,
            day=sum(at > now() - DAY for at, _, _ in failures),
            week=len(failures),
            failures=request.html(FAILED, rows=shown) if shown else "",
        ),
    )


def _disk(request: PageRequest, db: sqlite3.Connection) -> Html:
    used, releases, files = db.execute(
        "SELECT (SELECT coalesce(sum(file_size), 0) FROM (SELECT DISTINCT file_hash, file_size "
        "FROM releases WHERE deleted_at IS NULL)), "
        "count(*), coalesce(sum(file_count), 0) FROM releases WHERE deleted_at IS NULL"
    ).fetchone()
    contents = _distinct_contents(request, db)
    usage = shutil.disk_usage(request.store.media)
    return request.facts(
        FACTS,
        (
            size(used),
            f"{size(usage.free)} ({percent(usage.free, usage.total)})",
            f"{releases:,}",
            f"{files:,}",
            f"{contents:,}",
            percent(max(0, files - contents), files),
        ),
    )


_counted: Dict[object, int] = {}


def _distinct_contents(request: PageRequest, db: sqlite3.Connection) -> int:
    """How many different contents there are; counted again when releases came or went.

    A million take 0.15 s (with count(DISTINCT …), which sorts them, 1.4 s).
    """
    key = (
        request.store.media,
        db.execute("SELECT count(*), max(uploaded_at), max(deleted_at) FROM releases").fetchone(),
    )
    if key not in _counted:
        count = db.execute(
            "SELECT count(*) FROM (SELECT DISTINCT sha256 FROM contents)"
        ).fetchone()[0]
        _counted.clear()
        _counted[key] = count
    return _counted[key]


def _channels(request: PageRequest, db: sqlite3.Connection) -> Html:
    rows = db.execute(
        "SELECT name, channels.app, count(releases.id), max(CASE WHEN is_active THEN version "
        "END) FROM channels "
        "LEFT JOIN releases ON channel = name AND deleted_at IS NULL GROUP BY name ORDER BY name"
    ).fetchall()
    return join(
        request.html(
            CHANNEL,
            url=request.url("", channel=name),
            name=name,
            app=app,
            count=f"{count:,}",
            active=active or "–",
        )
        for name, app, count, active in rows
    )
