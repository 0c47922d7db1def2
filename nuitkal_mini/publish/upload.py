"""Publish a tree: send what the server lacks.

An upload may be sent again after a broken connection: the version's manifest on the server says
whether an earlier try arrived after all.
"""

from __future__ import annotations

import secrets
from tempfile import TemporaryFile
from typing import (
    Any,
    BinaryIO,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

from ..manifest import Manifest, dumps, loads
from ..minisign import PublicKey, verify
from ..progress import Progress, megabytes
from ..semver import Version, parse
from .api import PAUSES, ApiClient, ApiError, PublishedRelease, RequestBody
from .pack import write_package
from .tree import FolderTree, PublishError

_CHUNK = 2**16  # each must be gone within the timeout: 2 kB/s are enough
_LIBRARIES = (".so", ".dylib", ".dll", ".pyd")
Part = Union[bytes, BinaryIO]
Signer = Callable[[bytes], str]  # a manifest -> its .minisig text


class Outcome(NamedTuple):
    """What a command says when it is done: a line for people, a document for --json."""

    text: str
    document: Dict[str, Any]


def upload(
    tree: FolderTree,
    server: ApiClient,
    fields: Dict[str, str],
    sign: Optional[Signer] = None,
    *,
    warn: Callable[[str], None] = lambda sentence: None,
    dry_run: bool = False,
) -> Outcome:
    """Publish the tree with the form's other `fields`.

    `warn` gets a sentence for each program of the active release that this tree lacks. A dry run
    asks the server what it lacks, and sends nothing.

    Raises:
        PublishError: the version is there with other content, or the server refuses or is away.
    """
    version = parse(tree.manifest.version)
    releases = list(server.releases())
    release = next((found for found in releases if found.version == version), None)
    if release is not None:
        return _already_there(tree, server, release, None if dry_run else sign)
    active = next((found for found in releases if found.is_active), None)
    if active is not None:
        for sentence in missing_programs(loads(server.manifest(active)), tree.manifest):
            warn(sentence)
    if dry_run:
        return _outcome("would upload", tree, server.missing(tree))
    manifest = dumps(tree.manifest)
    files: List[Tuple[str, str, Part]] = [("manifest", "update.json", manifest)]
    if sign is not None:
        files.append(("signature", "update.json.minisig", sign(manifest).encode()))
    return _send_until_it_arrives(tree, server, fields, files, sign)


def missing_programs(before: Manifest, after: Manifest) -> List[str]:
    """A sentence for each program that the release before can start and this one cannot.

    Without a `main` in its manifest, all that was executable and is no library counts as a program.
    """
    entries = {entry.path: entry for entry in after.files}
    programs = [
        entry
        for entry in before.files
        if entry.path == before.main
        or not (before.main or entry.link)
        and entry.mode == "755"
        and not entry.path.endswith(_LIBRARIES)
        and ".so." not in entry.path
    ]
    sentences = []
    for entry in programs:
        found = entries.get(entry.path)
        if found is None and not after.main:
            sentences.append(
                f"the release before ({before.version}) has {entry.path}, this one has not; "
                "name its program with --main"
            )
        elif found is not None and entry.mode == "755" and found.mode == "644":
            sentences.append(
                f"{entry.path} was executable in the release before ({before.version}) and is not "
                "any more; run chmod +x on it, and publish again"
            )
    return sentences


def _send_until_it_arrives(
    tree: FolderTree,
    server: ApiClient,
    fields: Dict[str, str],
    files: List[Tuple[str, str, Part]],
    sign: Optional[Signer],
) -> Outcome:
    version = parse(tree.manifest.version)
    for seconds in (*PAUSES[:2], None):
        missing = server.missing(tree)
        try:
            _send(tree, server, missing, fields, files)
            return _outcome("uploaded", tree, missing)
        except ApiError as error:
            release = server.find(version)
            if release is not None and error.retryable:  # only the answer was lost
                _check_same(tree, server, release)
                return _outcome("uploaded", tree, missing)
            if release is not None:  # somebody else was faster
                return _already_there(tree, server, release, sign)
            vanished = error.code == "incomplete"  # contents that the server had a moment ago
            if seconds is None or not (error.retryable or vanished):
                raise
            server.pause(seconds, error)
    raise AssertionError("the last try returns or raises")


def _send(
    tree: FolderTree,
    server: ApiClient,
    missing: Set[str],
    fields: Dict[str, str],
    files: List[Tuple[str, str, Part]],
) -> None:
    with TemporaryFile() as package:
        write_package(tree, package, missing)
        content_type, size, parts = form(fields, [*files, ("file", "update.zip", package)])
        with Progress("sending", size) as progress:
            server.upload(RequestBody(content_type, size, _counted(_chunks(parts), progress)))


def _counted(chunks: Iterable[bytes], progress: Progress) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        progress.advance(len(chunk))


def _outcome(done: str, tree: FolderTree, missing: Set[str]) -> Outcome:
    contents = tree.contents()
    sent = [entry.size for entry in contents if entry.sha256 in missing]
    total = sum(entry.size for entry in contents)
    return Outcome(
        f"{done} {tree.manifest.version}: {len(sent)} of {len(contents)} files sent, "
        f"{megabytes(sum(sent))} of {megabytes(total)}",
        {
            "version": tree.manifest.version,
            "uploaded": done == "uploaded",
            "files_sent": len(sent),
            "files": len(contents),
            "bytes_sent": sum(sent),
            "bytes": total,
        },
    )


def _check_same(tree: FolderTree, server: ApiClient, release: PublishedRelease) -> bytes:
    """The manifest of a release that must be what we publish."""
    manifest = server.manifest(release)
    theirs = loads(manifest)
    if theirs._replace(app=theirs.app or tree.manifest.app, version="") != tree.manifest._replace(
        version=""
    ):
        version = release.version.text
        raise PublishError(
            f"{version} is on the server with other content; a published version never changes, "
            "so choose a new version number"
        )
    return manifest


def _already_there(
    tree: FolderTree, server: ApiClient, release: PublishedRelease, sign: Optional[Signer]
) -> Outcome:
    """The same content is not sent again, and not activated.

    An old build job that runs again must not move the fleet back.
    """
    version, manifest = release.version.text, _check_same(tree, server, release)
    line = f"{version} is on the server with the same content; nothing to send"
    # Bytes that only the server vouches for are never signed.
    if sign is not None and manifest == dumps(tree.manifest):
        server.replace_signature(release.version, sign(manifest))
        line += "; signed anew"
    if not release.is_active:
        line += f"; it is not active (`activate {version}` makes it so)"
    return Outcome(line, {"version": version, "uploaded": False, "is_active": release.is_active})


def resign(server: ApiClient, version: Version, trusted: Sequence[PublicKey], sign: Signer) -> None:
    """Give a release a newer signature, if it has one by one of the same keys.

    The server's word alone is not worth a signature.
    """
    release = server.find(version)
    if release is None or not release.signature:
        raise PublishError(
            f"{version.text} is not on the server, or not signed; `upload --key` signs what a "
            "folder vouches for"
        )
    manifest = server.manifest(release)
    verify(trusted, manifest, release.signature)
    if parse(loads(manifest).version) != version:
        raise PublishError(
            f"the server shows the manifest of {loads(manifest).version!r} as that of "
            f"{version.text}; nothing was signed"
        )
    server.replace_signature(release.version, sign(manifest))


def form(fields: Dict[str, str], files: List[Tuple[str, str, Part]]) -> Tuple[str, int, List[Part]]:
    """multipart/form-data (RFC 7578): its content type, its size, and its parts.

    `files` are (name, file name, contents).
    """
    boundary = secrets.token_hex(16)
    parts: List[Part] = []
    for name, value in fields.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        parts.append(f"{head}{value}\r\n".encode("utf-8", "replace"))
    for name, file_name, contents in files:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; '
        head += f'filename="{file_name}"\r\n'
        parts += [
            f"{head}Content-Type: application/octet-stream\r\n\r\n".encode(),
            contents,
            b"\r\n",
        ]
    parts.append(f"--{boundary}--\r\n".encode())
    size = sum(len(part) if isinstance(part, bytes) else part.seek(0, 2) for part in parts)
    return f"multipart/form-data; boundary={boundary}", size, parts


def _chunks(parts: List[Part]) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, bytes):
            yield part
        else:
            part.seek(0)
            yield from iter(lambda: part.read(_CHUNK), b"")
