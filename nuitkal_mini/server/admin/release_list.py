"""The page of a channel's releases, with buttons to activate, deactivate and delete."""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple

from ...minisign import key_name, parse_signature
from ...semver import parse
from .. import fleet, releases
from ..api import BASE
from ..refused import no_such_action
from ..releases import STABLE, StoredRelease
from ..responses import Answer, base_url
from .markup import Html, join
from .page import PageRequest, size

ROWS = 50
MAX_LINE = (
    90  # bytes of a changelog's first line: 90 letters, or 30 Chinese characters, which are as wide
)
SEEN_DAYS = 7

COLUMNS = (  # title, what it sorts by, class
    ("Version", "version", ""),
    ("Changelog", "", ""),
    ("Size", "size", "n"),
    ("Files", "files", "n"),
    ("Uploaded", "uploaded", ""),
    ("Signed by", "", ""),
    ("Seen in 7 days", "", "n"),
    ("Actions", "", "do"),
)
SORTS = {
    "uploaded": "uploaded_at",
    "version": "precedence",
    "size": "file_size",
    "files": "file_count",
}

LIST = """<form class="search" method="get" role="search"><input type="hidden" name="channel"
value="{channel}">
<div><label for="q">[[Search]]</label><input type="search" id="q" name="q" value="{words}"
data-filter="releases"><button type="submit">[[Search]]</button></div>
<a class="button primary" href="{upload}">[[Upload a release]]</a></form>
<table id="releases" class="cards"><thead><tr>{columns}</tr></thead><tbody>{rows}</tbody>
</table>{hint}{pages}"""
HINT = (
    '<p class="hint">[[After a roll back to an older version, clients go back to it; those '
    "with public keys stay where they are.]]</p>"
)
ROW = """<tr data-version="{version}"{active}><td><a href="{url}">{version}</a>{badge}<td
class="line">{line}<td class="n">{size}<td class="n">{files}<i> [[files]]</i><td>{time}\
<td class="key">{key}<td class="n">{seen}<i> [[seen in 7 days]]</i><td class="do"><form
method="post">{csrf}<input type="hidden" name="version" value="{version}">{buttons}</form>
"""
BADGE = ' <span class="badge">[[active]]</span>'
ACTIVATE = '<button type="submit" name="action" value="activate">[[Activate]]</button>'
GO_BACK = '<button type="submit" name="action" value="activate">[[Roll back]]</button>'
IS_ACTIVE = (
    '<button type="submit" name="action" value="activate" disabled '
    'hidden>[[Activate]]</button><button type="submit" name="action" '
    'value="deactivate">[[Deactivate]]</button>'
)
DELETE = '<button type="submit" name="action" value="delete">[[Delete]]</button>'
PAGES = (
    '<nav class="pages" aria-label="[[More releases]]">{back}<span>{first}–{last} / '
    "{count}</span>{on}</nav>"
)
EMPTY = """<div class="panel"><p>[[Nothing has been published in this channel. Upload a ZIP here, or
publish a folder from your machine with a token:]]</p>
<pre class="copy"><code>python -m nuitkal_mini.publish upload DIR --app NAME --version 1.0.0 \
--server {server} --token TOKEN</code></pre>
<p><a class="button primary" href="{upload}">[[Upload a release]]</a> <a class="button"
href="{tokens}">[[Make a token]]</a></p></div>"""
NOT_FOUND = '<tr><td colspan="8">[[No release has these words in its version or changelog.]]'


def show(request: PageRequest) -> Answer:
    """The list, sorted, searched and cut by the database."""
    words, sort = request.query.get("q", "").strip(), request.query.get("sort", "")
    first = (
        ROWS * (min(int(request.query["page"]), 10**9) - 1)
        if request.query.get("page", "").isdecimal() and int(request.query["page"])
        else 0
    )
    with request.store.database.read() as db:
        count, shown = releases.page(
            db,
            request.channel,
            ROWS,
            first,
            SORTS.get(sort, "uploaded_at"),
            request.query.get("order") != "up",
            words,
        )
        active, seen = (
            releases.active(db, request.channel),
            fleet.seen(db, request.channel, SEEN_DAYS),
        )
    if not shown and not words:
        return request.render_page(
            "Releases",
            request.html(
                EMPTY,
                server=api_url(request),
                upload=request.url("upload/"),
                tokens=request.url("tokens/"),
            ),
        )
    rows = join(_row(request, release, active, seen) for release in shown) or request.html(
        NOT_FOUND
    )
    return request.render_page(
        "Releases",
        request.html(
            LIST,
            channel=request.channel,
            words=words,
            upload=request.url("upload/"),
            columns=_columns(request, sort),
            rows=rows,
            hint=request.html(HINT) if any(is_older(release, active) for release in shown) else "",
            pages=_pages(request, first, len(shown), count),
        ),
    )


def act(request: PageRequest) -> Answer:
    """Activate, deactivate, or go on to the page that asks before a deletion."""
    version, back = request.field("version"), request.here()
    if request.action == "delete":
        return request.redirect(request.release_url(version, "delete/"))
    notice = switch(request, version)
    return request.redirect(back, notice, version)


def switch(request: PageRequest, version: str) -> str:
    """Activate or deactivate a release as the button said; the notice of what has happened."""
    if request.action not in ("activate", "deactivate"):
        raise no_such_action(request.action)
    with request.store.database.read() as db:
        earlier = releases.active(db, request.channel)
    if request.action == "deactivate":
        releases.edit(
            request.store,
            request.channel,
            version,
            releases.ReleaseEdit(is_active=False),
            request.who,
        )
        return "deactivated"
    release = releases.activate(request.store, request.channel, version, request.who)
    return "back" if is_older(release, earlier) else "activated"


def is_older(release: StoredRelease, active: Optional[StoredRelease]) -> bool:
    """Whether clients would go back to this release."""
    return active is not None and parse(release.version) < parse(active.version)


def signature_of(release: StoredRelease) -> Tuple[str, str]:
    """The signing key's id and the trusted comment; both empty when the release is unsigned."""
    signature = parse_signature(release.signature) if release.signature else None
    return (key_name(signature.key_id), signature.trusted_comment) if signature else ("", "")


def buttons(request: PageRequest, release: StoredRelease, active: Optional[StoredRelease]) -> Html:
    """What can be done to a release."""
    if release.is_active:
        return request.html(IS_ACTIVE + DELETE)
    return request.html((GO_BACK if is_older(release, active) else ACTIVATE) + DELETE)


def api_url(request: PageRequest) -> str:
    """What `--server` of the publisher takes for this channel."""
    base = (request.settings.public_url or base_url(request.environ)) + BASE
    return base if request.channel == STABLE else f"{base}channels/{request.channel}/"


def _row(
    request: PageRequest,
    release: StoredRelease,
    active: Optional[StoredRelease],
    seen: Dict[str, int],
) -> Html:
    line = release.changelog.strip().partition("\n")[0].strip()
    cut = line.encode("utf-8")[:MAX_LINE].decode("utf-8", "ignore")
    return request.html(
        ROW,
        version=release.version,
        active=Html(' class="active"' if release.is_active else ""),
        url=request.release_url(release.version),
        badge=request.html(BADGE) if release.is_active else "",
        line=cut + "…" * (cut != line),
        size=size(release.file_size),
        files=f"{release.file_count:,}",
        time=request.time(release.uploaded_at),
        key=signature_of(release)[0],
        seen=f"{seen.get(release.canonical, 0):,}",
        csrf=request.csrf(),
        buttons=buttons(request, release, active),
    )


def _columns(request: PageRequest, sort: str) -> Html:
    up = request.query.get("order") == "up"
    heads: List[Html] = []
    for title, name, kind in COLUMNS:
        mark = (
            Html(f' aria-sort="{"ascending" if up else "descending"}"')
            if name and name == sort
            else Html("")
        )
        shown = request.say(title)
        if name:
            order = "up" if name == sort and not up else ""
            shown = request.html(
                '<a href="{url}">{title}</a>',
                url=request.here(sort=name, order=order, page=""),
                title=shown,
            )
        heads.append(
            request.html(
                '<th scope="col" class="{kind}"{mark}>{shown}</th>',
                kind=kind,
                mark=mark,
                shown=shown,
            )
        )
    return join(heads)


def _pages(request: PageRequest, first: int, shown: int, count: int) -> Html:
    if count <= ROWS and not first:
        return Html("")
    page = first // ROWS + 1
    back = (
        request.html(
            '<a rel="prev" href="{url}">← [[Previous]]</a>', url=request.here(page=page - 1)
        )
        if first
        else ""
    )
    on = (
        request.html('<a rel="next" href="{url}">[[Next]] →</a>', url=request.here(page=page + 1))
        if first + shown < count
        else ""
    )
    return request.html(
        PAGES,
        back=back,
        on=on,
        first=f"{first + 1:,}",
        last=f"{first + shown:,}",
        count=f"{count:,}",
    )
