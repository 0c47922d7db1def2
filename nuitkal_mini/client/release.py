"""What `check/` says: which version is active, and where to look for it.

It is trusted for no more than that.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, NamedTuple, Optional, Tuple

from ..manifest import ManifestError
from ..problem import Problem
from ..semver import Version, parse
from ..strict_json import json_object
from .errors import CheckError, DownloadError

MAX_CHECK_BYTES = 2**20
MAX_DELTAS = 100  # a server offers those from its last few releases


class DeltaOffer(NamedTuple):
    """A delta to the offered release: from which version, where, how long, and its SHA-256."""

    base: str
    url: str
    size: int
    sha256: str


class Release(NamedTuple):
    """A release that a server offers.

    `manifest_url` is empty, `file_size` 0 and `signature` None where it says none.
    """

    version: str
    download_url: str
    file_hash: str
    file_size: int
    manifest_url: str
    signature: Optional[str]
    changelog: str
    deltas: Tuple[DeltaOffer, ...] = ()
    rotations: Tuple[str, ...] = ()

    @property
    def precedence(self) -> Version:
        """The version as a value that compares."""
        return parse(self.version)


def parse_release(body: bytes, url: str) -> Release:
    """The release that `check/` at `url` describes; its URLs may be relative to that.

    Raises:
        CheckError: it lacks what even a basic server says: version, download_url, file_hash.
    """
    from .http_client import resolve

    try:
        # Editors on Windows put a byte order mark before a file that somebody changed by hand.
        values = json_object(body[3:] if body.startswith(b"\xef\xbb\xbf") else body)
        parse(_text(values, "version", 64))
        release = Release(
            values["version"],
            resolve(url, _text(values, "download_url", 8192)),
            _hash(values),
            _size(values.get("file_size")),
            _text(values, "manifest_url", 8192),
            values.get("signature"),
            _text(values, "changelog", 2**20),
            rotations=_urls(values.get("rotations"), url),
        )
        if release.manifest_url:
            release = release._replace(
                manifest_url=resolve(url, release.manifest_url),
                deltas=tuple(
                    offer._replace(url=resolve(url, offer.url))
                    for offer in _deltas(values.get("deltas"))
                ),
            )
    except (Problem, DownloadError) as error:
        raise CheckError(f"{url} did not describe a release: {error}") from error
    if not values.get("download_url") or (not release.file_hash and not release.manifest_url):
        raise CheckError(f"{url} did not describe a release: download_url or file_hash is missing")
    if release.signature is not None and not isinstance(release.signature, str):
        raise CheckError(f"{url} did not describe a release: its signature is no text")
    return release


def _deltas(items: object) -> Iterator[DeltaOffer]:
    """The deltas that are described in full; others are left out, for the package does as well."""
    for item in items[:MAX_DELTAS] if isinstance(items, list) else ():
        if isinstance(item, dict):
            try:
                base, url = _text(item, "from", 64), _text(item, "url", 8192)
                size, sha256 = _size(item.get("size")), _hash(item, "hash")
                parse(base)
            except Problem:
                continue
            if url and size and sha256:
                yield DeltaOffer(base, url, size, sha256)


def _text(values: Dict[str, Any], key: str, limit: int) -> str:
    value = values.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > limit:
        raise ManifestError(
            "{key} is not a text of at most {limit} characters", key=key, limit=limit
        )
    return value


def _urls(value: object, base: str) -> Tuple[str, ...]:
    from .http_client import resolve

    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ManifestError("rotations is not a list of addresses")
    return tuple(resolve(base, item) for item in value)


def _hash(values: Dict[str, Any], key: str = "file_hash") -> str:
    text = _text(values, key, 64).lower()
    if text and not (len(text) == 64 and set(text) <= set("0123456789abcdef")):
        raise ManifestError("{key} is not the 64 hex digits of a SHA-256", key=key)
    return text


def _size(value: object) -> int:
    return value if type(value) is int and 0 < value < 2**40 else 0
