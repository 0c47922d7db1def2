"""The page of one release: facts, files compared with the previous release, and its actions."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple
from urllib.parse import quote

from ...entries import FileEntry
from ...manifest import Manifest, loads
from ...minisign import SignatureError, parse_release_comment
from ...tree_diff import Diff, diff
from .. import fleet, releases
from ..api import parse_channel, parse_flag, signature_text
from ..deltas import Delta, deltas_to
from ..messages import say_problem
from ..refused import Refused
from ..releases import ReleaseEdit, StoredRelease
from ..responses import Answer
from ..store import manifest_name, signature_name
from .markup import Html, join
from .page import PageRequest, size
from .release_list import BADGE, SEEN_DAYS, buttons, is_older, signature_of, switch

MAX_ITEMS = 150  # of a folder on one page; the manifest has them all

PAGE = """<section class="panel"><dl class="facts">{facts}</dl><p
class="downloads">{downloads}</p>{deltas}{warning}<form
class="actions" method="post">{csrf}{buttons}</form>
</section>
<section class="panel" id="files"><h2>[[Files]]</h2><p>{summary}</p><p class="path">{path}</p>
<table><thead><tr><th scope="col">[[Name]]</th><th scope="col" class="n">[[Files]]</th><th
scope="col" class="n">[[Size]]</th><th scope="col">[[Change]]</th></tr></thead>
<tbody>{items}</tbody></table>{more}</section>
<div class="pair"><form class="panel" method="post"
enctype="multipart/form-data">{csrf}<h2>[[Edit]]</h2>
<p><label for="changelog">[[Changelog]]</label><textarea id="changelog" name="changelog"
rows="6">{changelog}</textarea></p>
<p><label for="signature">[[Another signature of the manifest (.minisig)]]</label><input
id="signature" name="signature" type="file" accept=".minisig"></p>
<p><button type="submit" name="action" value="save" class="primary">[[Save]]</button></p></form>
<form class="panel" method="post">{csrf}<h2>[[Put it into another channel]]</h2>
<p><label for="to">[[To the channel]]</label><input id="to" name="to" list="channels" required
pattern="[a-z0-9][a-z0-9._\\-]{{0,63}}" value="{to}"><datalist id="channels">{channels}</datalist>
</p>
<p><input id="is_active" name="is_active" type="checkbox" value="on" checked> <label
for="is_active">[[and make it the active version there]]</label></p>
<p><button type="submit" name="action" value="promote">[[Promote]]</button></p></form></div>"""
WARNING = (
    '<p class="warning">[[This version is older than the active {active}. When it is '
    "activated, clients go back to it; clients with public keys stay where they are.]]</p>"
)
LOST_MAIN = """<p class="warning">[[The release before, {before}, has the main program {main}; this
one has neither it nor another one. Clients will refuse it and stay with what they have.]]</p>"""
ITEM = '<tr{kind}><td>{name}<td class="n">{files}<td class="n">{size}<td>{change}\n'
ASK = """<form class="panel" method="post">{csrf}<p>[[Version {version} ({size}, {files} files) of
the channel {channel} and its download addresses will be gone. The version can only
come back with the same files.]]</p>
<p><button type="submit" name="action" value="delete" class="danger">[[Delete version
{version}]]</button> <a class="button" href="{back}">[[Keep it]]</a></p></form>"""
CANNOT = """<div class="panel"><p class="warning">[[Version {version} is active and cannot be
deleted. Activate another version first, or deactivate this one.]]</p>
<p><a class="button" href="{back}">[[Back]]</a></p></div>"""
FACTS = ("Uploaded", "App", "Package", "Unpacked", "Signed by", "Seen in 7 days", "SHA-256")
DELTAS = "<p>[[Deltas, which clients download in place of the package:]]</p><ul>{items}</ul>"
DELTA = "<li>[[from {version}: {size}, {percent} % of the package]]\n"
DOWNLOAD = '<a class="button" href="{url}">{name}</a> '
STEP = '<a href="{url}#files">{name}</a>'
DOWNLOADS = ("Download the ZIP", "Download the manifest", "Download the signature")


class Item(NamedTuple):
    """A line of a folder: a file, or a folder with all below it.

    `changes` counts added, changed and removed files.
    """

    name: str
    is_folder: bool
    files: int
    size: int
    changes: Tuple[int, int, int]


def show(request: PageRequest) -> Answer:
    """The page of a release; `?folder=` is the folder of its tree that is shown."""
    with request.store.database.read() as db:
        release = releases.find(db, request.channel, request.version)
        active, before = (
            releases.active(db, request.channel),
            releases.previous_release(db, release),
        )
        made = deltas_to(db, release.id)
        seen = fleet.seen(db, request.channel, SEEN_DAYS).get(release.canonical, 0)
    title = request.html(
        "[[Version]] {version}" + (BADGE if release.is_active else ""), version=release.version
    )
    return request.render_page(
        title,
        request.html(
            PAGE,
            csrf=request.csrf(),
            buttons=buttons(request, release, active),
            facts=_facts(request, release, seen),
            downloads=_downloads(request, release),
            deltas=_deltas(request, release, made),
            warning=_warnings(request, release, before, active),
            changelog=request.field("changelog") if request.action == "save" else release.changelog,
            to=request.field("to"),
            channels=request.options(name for name in request.channels if name != request.channel),
            **_shown_files(request, release, before),
        ),
    )


def _warnings(
    request: PageRequest,
    release: StoredRelease,
    before: Optional[StoredRelease],
    active: Optional[StoredRelease],
) -> Html:
    older = active and is_older(release, active)
    main = lost_main(request, release, before)
    return Html(
        (request.html(WARNING, active=active.version) if active and older else "")
        + (request.html(LOST_MAIN, main=main, before=before.version) if before and main else "")
    )


def ask(request: PageRequest) -> Answer:
    """The page that asks before a deletion."""
    with request.store.database.read() as db:
        release = releases.find(db, request.channel, request.version)
    body = request.html(
        CANNOT if release.is_active else ASK,
        csrf=request.csrf(),
        version=release.version,
        size=size(release.file_size),
        files=release.file_count,
        channel=request.channel,
        back=request.release_url(release.version),
    )
    return request.render_page(request.html("[[Delete]] {version}?", version=release.version), body)


def act(request: PageRequest) -> Answer:
    """Do what a button of these pages says."""
    asked = request.environ["PATH_INFO"].rstrip("/").endswith("/delete")
    if request.action == "delete" and not asked:
        return request.redirect(request.release_url(request.version, "delete/"))
    if request.action == "delete":
        releases.delete(request.store, request.channel, request.version, request.who)
        return request.redirect(request.url(""), "deleted", request.version)
    if request.action == "save":
        upload = request.form.files.get("signature")
        releases.edit(
            request.store,
            request.channel,
            request.version,
            ReleaseEdit(request.field("changelog"), None, signature_text(upload)),
            request.who,
        )
        return request.redirect(request.release_url(request.version), "saved")
    if request.action == "promote":
        return _promote(request)
    notice = switch(request, request.version)
    return request.redirect(request.release_url(request.version), notice, request.version)


def _promote(request: PageRequest) -> Answer:
    target, is_active = (
        parse_channel(request.field("to").strip()),
        parse_flag("is_active", request.form.fields.get("is_active", "off")),
    )
    release = releases.promote(
        request.store, request.channel, target, request.version, is_active, request.who
    )
    return request.redirect(
        request.release_url(release.version, channel=target), "promoted", release.version
    )


def _facts(request: PageRequest, release: StoredRelease, seen: int) -> Html:
    return request.facts(
        FACTS,
        (
            request.time(release.uploaded_at),
            release.app or "–",
            size(release.file_size),
            size(release.tree_size),
            _signature(request, release),
            f"{seen:,}",
            request.html("<code>{hash}</code>", hash=release.file_hash),
        ),
    )


def _signature(request: PageRequest, release: StoredRelease) -> str:
    """The key, and when it last signed: what `resign` renews."""
    key, comment = signature_of(release)
    try:
        return request.html(
            "{key}, {time}",
            key=key,
            time=request.time(parse_release_comment(comment).timestamp * 10**6),
        )
    except (SignatureError, OverflowError):  # unsigned, or signed in a year that no calendar has
        return key or "–"


def _downloads(request: PageRequest, release: StoredRelease) -> Html:
    paths = [release.package, manifest_name(release.package)] + [
        signature_name(release.package)
    ] * (release.signature is not None)
    media = request.root[: -len("admin/")] + "media/"
    return join(
        request.html(DOWNLOAD, url=media + quote(path), name=request.say(name))
        for name, path in zip(DOWNLOADS, paths)
    )


def _deltas(request: PageRequest, release: StoredRelease, made: List[Delta]) -> Html:
    if not made:
        return Html("")
    items = join(
        request.html(
            DELTA,
            version=delta.source_version,
            size=size(delta.size),
            percent=f"{100 * delta.size / release.file_size:.2g}",
        )
        for delta in made
    )
    return request.html(DELTAS, items=items)


# --- the tree -----------------------------------------------------------------------------------


def _shown_files(
    request: PageRequest, release: StoredRelease, before: Optional[StoredRelease]
) -> Dict[str, object]:
    try:
        return _files(request, release, before)
    except Refused as refused:
        sentence = request.html(
            '<span class="warning">{sentence}</span>',
            sentence=say_problem(refused, request.language),
        )
        return {"summary": sentence, "path": "", "more": "", "items": ""}


def _files(
    request: PageRequest, release: StoredRelease, before: Optional[StoredRelease]
) -> Dict[str, object]:
    files = _manifest_of(request, release).files
    older = _manifest_of(request, before).files if before else files
    changes = diff(older, files)
    folder = request.query.get("folder", "").strip("/")
    items = listing(files, changes, folder)
    counts = {
        "added": len(changes.added),
        "changed": len(changes.changed),
        "removed": len(changes.removed),
    }
    summary = request.html(
        "[[{files} files, {size}.]] ", files=f"{len(files):,}", size=size(release.tree_size)
    )
    if before:
        summary = Html(
            summary
            + request.html(
                "[[Against {before}: {added} new, {changed} changed, {removed} removed.]]",
                before=before.version,
                **counts,
            )
        )
    more = (
        request.html("<p>[[{count} more are in the manifest.]]</p>", count=len(items) - MAX_ITEMS)
        if len(items) > MAX_ITEMS
        else ""
    )
    return {
        "summary": summary,
        "path": _path(request, release, folder),
        "more": more,
        "items": join(_item(request, release, folder, item) for item in items[:MAX_ITEMS]),
    }


def listing(files: Tuple[FileEntry, ...], changes: Diff, folder: str) -> List[Item]:
    """What lies in a folder of the tree, folders first, with what was removed from it."""
    marks = {entry.path: 0 for entry in changes.added}
    marks.update({new.path: 1 for _, new in changes.changed})
    marks.update({entry.path: 2 for entry in changes.removed})
    prefix = folder + "/" if folder else ""
    items: Dict[str, Item] = {}
    for entry in (*files, *changes.removed):
        if entry.path.startswith(prefix):
            name, slash, _ = entry.path[len(prefix) :].partition("/")
            known = items.get(name + slash, Item(name, bool(slash), 0, 0, (0, 0, 0)))
            mark = marks.get(entry.path)
            added, changed, removed = (
                count + (mark == number) for number, count in enumerate(known.changes)
            )
            there = mark != 2
            items[name + slash] = known._replace(
                files=known.files + there,
                size=known.size + entry.size * there,
                changes=(added, changed, removed),
            )
    return sorted(items.values(), key=lambda item: (not item.is_folder, item.name))


def _item(request: PageRequest, release: StoredRelease, folder: str, item: Item) -> Html:
    words = ("new", "changed", "removed")
    if not item.is_folder:
        change = next((word for word, count in zip(words, item.changes) if count), "")
        return request.html(
            ITEM,
            kind=Html(f' class="{change}"' if change else ""),
            name=item.name,
            files="",
            size=size(item.size) if item.files else "",
            change=request.say(change) if change else "",
        )
    url = request.release_url(release.version, folder=f"{folder}/{item.name}".strip("/")) + "#files"
    change = ", ".join(
        f"{count} {request.say(word)}" for word, count in zip(words, item.changes) if count
    )
    return request.html(
        ITEM,
        kind="",
        name=request.html('<a href="{url}">{name}/</a>', url=url, name=item.name),
        files=f"{item.files:,}",
        size=size(item.size),
        change=change,
    )


def _path(request: PageRequest, release: StoredRelease, folder: str) -> Html:
    """The way from the release's top to the folder, each step a link."""
    parts = folder.split("/") if folder else []
    return Html(
        " / ".join(
            request.html(
                STEP,
                url=request.release_url(release.version, folder="/".join(parts[:depth])),
                name=name,
            )
            for depth, name in enumerate([release.version, *parts])
        )
    )


def lost_main(request: PageRequest, release: StoredRelease, before: Optional[StoredRelease]) -> str:
    """The main program of the release before, if this release has neither it nor another one."""
    try:
        main = _manifest_of(request, before).main if before else ""
        manifest = _manifest_of(request, release)
    except Refused:  # its files are gone, which the page says elsewhere
        return ""
    has_one = manifest.main or any(entry.path == main for entry in manifest.files)
    return "" if has_one else main


def _manifest_of(request: PageRequest, release: StoredRelease) -> Manifest:
    try:
        return _read_manifest(request.store.media / manifest_name(release.package))
    except FileNotFoundError as error:
        raise releases.files_gone(release) from error


# Two a page; one of 5,000 files takes 60 ms to check, and no manifest's file ever changes.
@lru_cache(maxsize=4)
def _read_manifest(path: Path) -> Manifest:
    return loads(path.read_bytes())
