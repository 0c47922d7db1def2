"""Change the keys of a program: a release that tells its clients to believe a further key.

The release has the files of the active one, a version of its own, and a manifest that lists the
keys from now on. The old key signs it, so that every client accepts it, and the new key as well, so
that clients which know only that one do too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict

from ..manifest import Manifest, dumps, loads
from ..minisign import PublicKey, verify
from ..semver import Version, parse
from ..signing import SecretKey, public_key
from .api import ApiClient, PublishedRelease
from .tree import FolderTree, PublishError
from .upload import Outcome, Signer, upload


def rotate(
    server: ApiClient,
    version: Version,
    old: SecretKey,
    new: SecretKey,
    sign: Signer,
    is_active: bool = True,
) -> Outcome:
    """Publish the active release again as `version`, with `new` among its keys.

    `sign` signs with both keys, the old one first.

    Raises:
        PublishError: nothing is active, the version is not newer, or the new key is known already.
        SignatureError: the active release is not signed by the old key.
    """
    active = _active_release(server)
    if version <= active.version:
        raise PublishError(
            f"{version.text} is not above the active version {active.version.text}; "
            "choose a higher version"
        )
    manifest = _verified_manifest(server, active, public_key(old))
    added = str(public_key(new))
    known = manifest.terms.keys or (str(public_key(old)),)
    if added in known:
        raise PublishError(f"{added} is among the keys of {active.version.text} already")
    terms = manifest.terms._replace(keys=(*known, added))
    rotated = manifest._replace(version=version.text, terms=terms)
    tree = FolderTree(Path(), loads(dumps(rotated)), {})
    if server.missing(tree):
        raise PublishError(
            f"the server lost contents of {active.version.text}; upload that again, then rotate"
        )
    fields: Dict[str, str] = {
        "version": version.text,
        "is_active": "yes" if is_active else "no",
        "changelog": str(active.fields.get("changelog") or ""),
    }
    outcome = upload(tree, server, fields, sign)
    return Outcome(
        f"{outcome.text}\n"
        f"clients that install {version.text} believe {added} from now on. Next:\n"
        "  1. Sign the following releases with the new key; the old one is no longer needed.\n"
        "  2. Put the new public key into new launchers, beside the old one.\n"
        "  3. Keep the old secret key in a safe place: it can revoke the new one (--revoke).",
        {**outcome.document, "keys": [*known, added]},
    )


def _verified_manifest(
    server: ApiClient, release: PublishedRelease, trusted: PublicKey
) -> Manifest:
    content = server.manifest(release)
    verify([trusted], content, release.signature)
    manifest = loads(content)
    if parse(manifest.version) != release.version:
        raise PublishError(
            f"the server shows the manifest of {manifest.version!r} as that of "
            f"{release.version.text}; nothing was signed"
        )
    return manifest


def _active_release(server: ApiClient) -> PublishedRelease:
    active = next((release for release in server.releases() if release.is_active), None)
    if active is None:
        raise PublishError("no release is active; a rotation repeats the active one")
    if not active.signature:
        raise PublishError(
            f"{active.version.text} is not signed; `upload --key` signs what a folder vouches for"
        )
    return active
