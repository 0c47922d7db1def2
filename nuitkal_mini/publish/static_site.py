"""A static site in a local folder: releases for any web server, bucket or CDN, without our server.

The folder has the paths of the server, so that a client needs only another address:

    api/nuitkal_pack/check/index.html      the active release, as JSON: for hosts with index files
    api/nuitkal_pack/check.json            the same
    api/nuitkal_pack/versions.json         all releases of the channel: the only state
    api/nuitkal_pack/channels/beta/…       the same three for another channel
    media/nuitkal_packs/YYYY/MM/…          packages, manifests, signatures, deltas of `stable`
    media/nuitkal_packs/beta/YYYY/MM/…     those of another channel

Packages come first, then `versions.json`, then `check/`; each file is written beside its place,
fsynced and renamed. A reader sees the site before or after, and an interrupted run is finished by
the next one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, List, NamedTuple, Optional, Set, Tuple

from ..manifest import Manifest, dumps, loads
from ..problem import Problem
from ..semver import Version, parse
from ..strict_json import json_object
from .pack import write_package
from .tree import FolderTree, PublishError
from .upload import Signer

API = "api/nuitkal_pack"
MEDIA = "media/nuitkal_packs"
STABLE = "stable"
MAX_VERSIONS_BYTES = 64 * 2**20  # 10,000 releases with changelogs of 6 kB
_CHANNEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TEXTS = ("version", "download_url", "file_hash", "changelog", "upload_time", "manifest_url")


class ListedRelease(NamedTuple):
    """A release of the site: the API's fields; URLs are relative to the channel's folder."""

    version: str
    download_url: str
    file_hash: str
    file_size: int
    changelog: str
    is_active: bool
    upload_time: str
    manifest_url: str
    signature_url: Optional[str]
    signature: Optional[str]

    @property
    def precedence(self) -> Version:
        return parse(self.version)


def publish(
    site: Path,
    channel: str,
    tree: FolderTree,
    *,
    changelog: str = "",
    is_active: bool = True,
    sign: Optional[Signer] = None,
    now: Optional[float] = None,
) -> str:
    """Add the tree as a release of the channel; gives back the line that says what happened.

    Raises:
        PublishError: the version is there with other content, or the channel belongs to another
        app.
        OSError: the folder cannot be written.
    """
    folder = _Channel(site, channel)
    manifest = dumps(tree.manifest)
    version = parse(tree.manifest.version)
    there = folder.find(version)
    if there is not None:
        return _publish_again(folder, there, tree.manifest, manifest, sign)
    known = folder.contents(tree.manifest.app)
    moment = time.gmtime(time.time() if now is None else now)
    media = folder.new_media(time.strftime("%Y/%m", moment), version)
    signature = sign(manifest) if sign else None
    package = f"{media}.zip"
    # What the releases before lack comes last: one range at the end brings it to a client.
    ordered = sorted(tree.manifest.files, key=lambda entry: entry.sha256 not in known)
    arranged = tree._replace(manifest=tree.manifest._replace(files=tuple(ordered)))
    _write(site / package, lambda out: write_package(arranged, out))
    _write_text(site / f"{media}.json", manifest)
    if signature is not None:
        _write_text(site / f"{media}.json.minisig", signature.encode("utf-8"))
    digest, size = _digest(site / package)
    release = ListedRelease(
        version=tree.manifest.version,
        download_url=folder.url_of(package),
        file_hash=digest,
        file_size=size,
        changelog=changelog,
        is_active=is_active,
        upload_time=time.strftime("%Y-%m-%dT%H:%M:%SZ", moment),
        manifest_url=folder.url_of(f"{media}.json"),
        signature_url=folder.url_of(f"{media}.json.minisig") if signature else None,
        signature=signature,
    )
    folder.add(release)
    new = sum(entry.size for entry in tree.contents() if entry.sha256 not in known)
    state = "active" if is_active else "not active"
    return f"published {release.version} in {channel}: {new} bytes are new; it is {state}"


def _publish_again(
    folder: _Channel,
    there: ListedRelease,
    tree: Manifest,
    manifest: bytes,
    sign: Optional[Signer],
) -> str:
    """The same content changes nothing but its signature; other content is refused."""
    stored = folder.manifest_bytes(there)
    if loads(stored)._replace(version="") != tree._replace(version=""):
        raise PublishError(
            f"{there.version} is in {folder.site} with other content; a published version never "
            "changes, so choose a new version number"
        )
    line = f"{there.version} is in {folder.site} with the same content; nothing to write"
    if sign is not None and stored == manifest:
        signature = sign(manifest)
        path = folder.path_of(there.manifest_url + ".minisig")
        _write_text(path, signature.encode("utf-8"))
        url = there.manifest_url + ".minisig"
        folder.replace(there._replace(signature=signature, signature_url=url))
        line += "; signed anew"
    else:
        folder.write_check()  # an earlier run may have been interrupted before it
    return line


def activate(site: Path, channel: str, version: Version) -> str:
    """Make a release the one that the channel's `check/` offers; its version.

    Raises:
        PublishError: the channel has no such release, or its package is gone.
    """
    folder = _Channel(site, channel)
    release = folder.get(version)
    if not folder.path_of(release.download_url).is_file():
        raise PublishError(f"the package of {release.version} is gone; publish it again")
    folder.activate(release)
    return release.version


def make_deltas(site: Path, channel: str, count: int) -> int:
    """Make the deltas from the last `count` other releases to the active one; how many are new.

    A delta that would not save enough is not kept.

    Raises:
        PublishError: a package of the site is damaged.
        OSError: the folder cannot be written.
    """
    folder = _Channel(site, channel)
    active = folder.active()
    if active is None:
        return 0
    made = 0
    for source in folder.sources_of(active)[:count]:
        path = folder.delta_path(source, active)
        if path.is_file() or not folder.path_of(source.download_url).is_file():
            continue
        try:
            _write(path, partial(folder.write_delta, source, active))
        except _DoesNotPay:
            continue
        except Problem as error:
            raise PublishError(f"no delta from {source.version}: {error}") from error
        made += 1
    if made:
        folder.write_check()
    return made


class _DoesNotPay(Exception):
    """A delta saves too little to be kept."""


def promote(site: Path, channel: str, version: Version, source: str, is_active: bool) -> str:
    """Take a release over from another channel: the same package, manifest and signature.

    Raises:
        PublishError: `source` has no such release, or this channel has the version or another app.
    """
    origin, folder = _Channel(site, source), _Channel(site, channel)
    release = origin.get(version)
    if folder.find(version) is not None:
        raise PublishError(f"{release.version} is in {channel} already")
    folder.contents(loads(origin.manifest_bytes(release)).app)

    def moved(url: str) -> str:
        return folder.url_of(os.path.relpath(origin.path_of(url), site))

    folder.add(
        release._replace(
            is_active=is_active,
            download_url=moved(release.download_url),
            manifest_url=moved(release.manifest_url),
            signature_url=moved(release.signature_url) if release.signature_url else None,
        )
    )
    return release.version


def releases(site: Path, channel: str) -> List[ListedRelease]:
    """The releases of a channel, newest upload first."""
    return _Channel(site, channel).releases


class _Channel:
    """The folder of one channel, as it was when it was read."""

    def __init__(self, site: Path, channel: str) -> None:
        if not _CHANNEL.fullmatch(channel) or channel.endswith("."):
            raise PublishError(
                f"{channel!r} is not a channel: use a-z, 0-9, '.', '_' and '-', at most 64"
            )
        self.site = site
        self._name = channel
        self._folder = API if channel == STABLE else f"{API}/channels/{channel}"
        self._read = self._read_versions()
        self.releases = self._parse(self._read)

    def find(self, version: Version) -> Optional[ListedRelease]:
        return next((item for item in self.releases if item.precedence == version), None)

    def get(self, version: Version) -> ListedRelease:
        found = self.find(version)
        if found is None:
            raise PublishError(f"{self._name} has no release {version.text}; `list` shows what is")
        return found

    def contents(self, app: str) -> Set[str]:
        """The SHA-256 of all contents in the channel, which must belong to the same app."""
        known: Set[str] = set()
        for release in self.releases:
            manifest = loads(self.manifest_bytes(release))
            if manifest.app and app and manifest.app != app:
                raise PublishError(
                    f"{self._name} in {self.site} holds releases of {manifest.app}, not of {app}; "
                    "choose another folder or --channel"
                )
            known |= {entry.sha256 for entry in manifest.files}
        return known

    def new_media(self, month: str, version: Version) -> str:
        """The path, without suffix, of a new release's files; no listed release has it.

        S3 reads a plus sign in a URL as a space. Some disks take `1.0-RC` and `1.0-rc` for one
        name.
        """
        part = "" if self._name == STABLE else f"{self._name}/"
        media = f"{MEDIA}/{part}{month}/update_{version.text.replace('+', '_')}"
        taken = {self.url_of(f"{media}.json").casefold()} & {
            item.manifest_url.casefold() for item in self.releases
        }
        return f"{media}_{len(self.releases)}" if taken else media

    def url_of(self, path: str) -> str:
        return os.path.relpath(path, self._folder).replace(os.sep, "/")

    def path_of(self, url: str) -> Path:
        """The file that a URL of this channel names; it must lie in the site's media folder."""
        path = os.path.normpath(os.path.join(self._folder, url)).replace(os.sep, "/")
        if not path.startswith(MEDIA + "/"):
            raise PublishError(f"{self._versions_path()}: {url!r} lies outside of {MEDIA}")
        return self.site / path

    def active(self) -> Optional[ListedRelease]:
        return next((item for item in self.releases if item.is_active), None)

    def sources_of(self, target: ListedRelease) -> List[ListedRelease]:
        """The other releases that a delta to the target can lead from, newest first.

        Of a promoted release and one of the channel itself, versions do not tell contents.
        """
        home = self.path_of(target.download_url).parents[2]
        return [
            item
            for item in self.releases
            if item.version != target.version and self.path_of(item.download_url).parents[2] == home
        ]

    def delta_path(self, source: ListedRelease, target: ListedRelease) -> Path:
        name = f".from_{source.version.replace('+', '_')}.delta"
        return self.path_of(target.download_url[: -len(".zip")] + name)

    def write_delta(self, source: ListedRelease, target: ListedRelease, out: BinaryIO) -> None:
        """Raises _DoesNotPay, and DeltaError or ArchiveError for a damaged package."""
        # Here: no other command waits for the encoder to be imported.
        from ..delta.packages import Published, write_package_delta

        with open(self.path_of(source.download_url), "rb") as old, open(
            self.path_of(target.download_url), "rb"
        ) as new:
            written = write_package_delta(
                Published(old, source.file_size, self.manifest_bytes(source)),
                Published(
                    new, target.file_size, self.manifest_bytes(target), target.signature or ""
                ),
                out,
            )
        if written.sha256 is None:
            raise _DoesNotPay

    def _deltas(self, active: ListedRelease) -> List[Dict[str, Any]]:
        """What lies beside the active release's package, from the newest release first."""
        found = []
        for source in self.sources_of(active):
            path = self.delta_path(source, active)
            if path.is_file():
                sha256, size = _digest(path)
                url = self.url_of(os.path.relpath(path, self.site))
                found.append({"from": source.version, "url": url, "size": size, "hash": sha256})
        return found

    def manifest_bytes(self, release: ListedRelease) -> bytes:
        return self.path_of(release.manifest_url).read_bytes()

    def add(self, release: ListedRelease) -> None:
        """List a new release; when it is active, no other is any more."""
        self.releases.insert(0, release)
        if release.is_active:
            self.activate(release)
        else:
            self._write()

    def activate(self, active: ListedRelease) -> None:
        self.releases = [
            item._replace(is_active=item.version == active.version) for item in self.releases
        ]
        self._write()

    def replace(self, release: ListedRelease) -> None:
        self.releases = [
            release if item.version == release.version else item for item in self.releases
        ]
        self._write()

    def _write(self) -> None:
        path = self._versions_path()
        if self._read_versions() != self._read:
            raise PublishError(f"{path} was changed meanwhile; run the command again")
        listed = [release._asdict() for release in self.releases]
        self._read = _json({"count": len(listed), "versions": listed})
        _write_text(path, self._read)
        self.write_check()

    def write_check(self) -> None:
        """Write both forms of `check/`, each with URLs relative to its own path."""
        active = self.active()
        if active is None:
            return  # a server without check/ answers 404, as ours does
        deltas, rotations = self._deltas(active), self._rotations()
        for name, up in (("check/index.html", "../"), ("check.json", "")):
            document = _json(_check_document(active, deltas, rotations, up))
            path = self.site / self._folder / name
            if not path.is_file() or path.read_bytes() != document:
                _write_text(path, document)

    def _rotations(self) -> List[str]:
        """The manifests that change the keys, oldest first, each signed."""
        found = []
        for release in reversed(self.releases):
            if release.signature and _changes_keys(loads(self.manifest_bytes(release))):
                found.append(release.manifest_url)
        return found

    def _versions_path(self) -> Path:
        return self.site / self._folder / "versions.json"

    def _read_versions(self) -> Optional[bytes]:
        try:
            with open(self._versions_path(), "rb") as file:
                return file.read(MAX_VERSIONS_BYTES)
        except FileNotFoundError:
            return None

    def _parse(self, data: Optional[bytes]) -> List[ListedRelease]:
        if data is None:
            return []
        try:
            found = json_object(data)["versions"]
            return [_listed(item) for item in found]
        except (ValueError, TypeError, KeyError) as error:
            raise PublishError(
                f"{self._versions_path()} cannot be read ({error}); restore it from a copy"
            ) from error


def _check_document(
    active: ListedRelease, deltas: List[Dict[str, Any]], rotations: List[str], up: str
) -> Dict[str, Any]:
    """What `check/` says; `up` leads from its folder to the channel's."""
    values = active._asdict()
    for name in ("download_url", "manifest_url", "signature_url"):
        values[name] = up + values[name] if values[name] else None
    return {
        **values,
        "deltas": [{**delta, "url": up + delta["url"]} for delta in deltas],
        "rotations": [up + url for url in rotations],
    }


def _changes_keys(manifest: Manifest) -> bool:
    return bool(manifest.terms.keys)


def _listed(item: Dict[str, Any]) -> ListedRelease:
    release = ListedRelease(**{name: item[name] for name in ListedRelease._fields})
    if not all(type(getattr(release, name)) is str for name in _TEXTS):
        raise ValueError("a release lacks one of " + ", ".join(_TEXTS))
    if type(release.is_active) is not bool or type(release.file_size) is not int:
        raise ValueError("is_active or file_size is of the wrong type")
    parse(release.version)
    return release


def _json(document: Dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")


def _digest(path: Path) -> Tuple[str, int]:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
        return digest.hexdigest(), file.tell()


def _write_text(path: Path, content: bytes) -> None:
    _write(path, lambda out: out.write(content))


def _write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Write a file whole: beside its place, fsynced, then renamed into it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with open(temporary, "w+b") as out:
            fill(out)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # network shares sync files only
                raise
        finally:
            os.close(descriptor)
