"""A static site as a server exports it: `check`, manifests, packages, signatures.

A test may tamper with every byte.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from typing import Any, Dict, List, Optional

from nuitkal_mini.manifest import Terms, dumps
from nuitkal_mini.minisign import ReleaseComment
from nuitkal_mini.signing import SecretKey, release_comment_text, sign
from nuitkal_mini.zip_write import PackageWriter

from ..trees import Tree, entries_of, manifest_of
from .conftest import Exchange, Serve


def package_of(tree: Tree, order: Optional[List[str]] = None) -> bytes:
    """The tree's package; `order` is that of its members."""
    out = io.BytesIO()
    writer = PackageWriter(out)
    entries = {entry.path: entry for entry in entries_of(tree)}
    for path in order or sorted(tree):
        item = tree[path]
        writer.add(entries[path], io.BytesIO(item.encode() if isinstance(item, str) else item[0]))
    writer.close()
    return out.getvalue()


class Site:
    """`files` is what is served; `check` the document that `publish` writes last."""

    def __init__(self, serve: Serve) -> None:
        self.files: Dict[str, bytes] = {}
        self.check: Dict[str, Any] = {}
        self.rotations: List[str] = []
        self.origin = serve(self._answer)
        self.url = self.origin.url + "check"

    def publish(
        self,
        version: str,
        tree: Tree,
        *,
        app: str = "app",
        secret: Optional[SecretKey] = None,
        signed_at: Optional[float] = None,
        terms: Terms = Terms(),
        order: Optional[List[str]] = None,
        basic: bool = False,
        main: str = "",
    ) -> None:
        """Make a release the active one; `basic` as a server does that knows no manifests."""
        package = package_of(tree, order)
        text = dumps(manifest_of(tree, app, version)._replace(terms=terms, main=main))
        self.files[f"{version}.zip"], self.files[f"{version}.json"] = package, text
        self.check = {
            "version": version,
            "download_url": f"{version}.zip",
            "file_hash": hashlib.sha256(package).hexdigest(),
        }
        if not basic:
            self.check.update(
                manifest_url=f"{version}.json", file_size=len(package), signature=None, deltas=[]
            )
        if secret is not None:
            comment = ReleaseComment(
                int(time.time() if signed_at is None else signed_at), app, version
            )
            self.check["signature"] = sign(secret, text, release_comment_text(comment))

    def requests(self) -> List[str]:
        """The paths asked for since the last call."""
        asked = [request.path for request in self.origin.asked]
        self.origin.asked.clear()
        return asked

    def _answer(self, exchange: Exchange) -> None:
        path = exchange.path.split("?")[0].lstrip("/")
        if path == "check":
            exchange.reply(200, json.dumps(self.check).encode(), Content_Type="application/json")
        elif path in self.files:
            exchange.reply_file(
                self.files[path], etag='"%s"' % hashlib.sha256(self.files[path]).hexdigest()
            )
        else:
            exchange.reply(404, b'{"error": "no such file", "code": "not_found"}')
