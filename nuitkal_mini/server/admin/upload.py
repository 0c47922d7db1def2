"""The upload form: the API's fields, read and stored by the API's functions."""

from __future__ import annotations

from .. import releases
from ..api import parse_channel, read_upload
from ..responses import Answer
from .markup import Html
from .page import PageRequest
from .release import lost_main

FORM = """<form id="upload" class="panel" method="post" enctype="multipart/form-data"
data-broken="[[The connection broke; nothing was uploaded.]]">{csrf}
<p><label for="version">[[Version]]</label><input id="version" name="version" required
maxlength="64" placeholder="1.0.0" value="{version}" autocomplete="off"></p>
<p class="drop"><label for="file">[[Package (ZIP): choose a file or drop it here]]</label><input
id="file" name="file" type="file" required accept=".zip,application/zip"></p>
<p><label for="changelog">[[Changelog]]</label><textarea id="changelog" name="changelog"
rows="6">{changelog}</textarea></p>
<p><label for="target">[[To the channel]]</label><input id="target" name="channel" list="channels"
required pattern="[a-z0-9][a-z0-9._\\-]{{0,63}}" value="{channel}"><datalist
id="channels">{channels}</datalist></p>
<p><input id="is_active" name="is_active" type="checkbox" value="on"{checked}> <label
for="is_active">[[Make it the active version: clients will install it]]</label></p>
<p><label for="program">[[Main program, such as main/main.bin (optional)]]</label><input
id="program" name="main" maxlength="500" autocomplete="off"
autocapitalize="none" value="{main}"></p>
<details{open}><summary>[[Manifest and signature (optional)]]</summary>
<p><label for="manifest">[[Manifest (.json): then the ZIP may leave out what the server
has]]</label><input id="manifest" name="manifest" type="file" accept=".json,application/json"></p>
<p><label for="signature">[[Signature of the manifest (.minisig)]]</label><input id="signature"
name="signature" type="file" accept=".minisig"></p></details>
<p><button type="submit" class="primary">[[Upload]]</button> <progress max="1" value="0"
aria-label="[[Sending]]" hidden></progress> <output></output></p></form>"""


def show(request: PageRequest) -> Answer:
    """The form, with what was typed when it did not go well."""
    is_again = request.problem is not None and bool(request.form.fields)
    return request.render_page(
        "Upload a release",
        request.html(
            FORM,
            csrf=request.csrf(),
            version=request.field("version"),
            main=request.field("main"),
            changelog=request.field("changelog"),
            channel=request.field("channel") or request.channel,
            channels=request.options(request.channels),
            checked=Html(
                ""
                if is_again and request.form.fields.get("is_active") in (None, "off")
                else " checked"
            ),
            open=Html(" open" if request.settings.public_keys else ""),
        ),
    )


def act(request: PageRequest) -> Answer:
    """Publish the upload and go on to its page.

    A release that lost the main program is not made active: its page warns, with a button.
    """
    request.form.fields.setdefault("is_active", "off")  # a box that is not ticked sends nothing
    channel = parse_channel(request.field("channel") or request.channel)
    upload = read_upload(request.form, channel)._replace(changelog=request.field("changelog"))
    inactive = upload._replace(is_active=False)
    release = releases.create(request.store, request.folder, inactive, request.who)
    with request.store.database.read() as db:
        before = releases.previous_release(db, release)
    notice = "uploaded"
    if upload.is_active and lost_main(request, release, before):
        notice = "held_back"
    elif upload.is_active:
        releases.activate(request.store, channel, release.version, request.who)
    return request.redirect(
        request.release_url(release.version, channel=channel), notice, release.version
    )
