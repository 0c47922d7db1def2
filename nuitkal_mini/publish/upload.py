"""Publish a tree: send what the server lacks, and tell apart what is new, what is there, and what contradicts.

An upload may be sent again after a broken connection: the version's manifest on the server says whether an
earlier try arrived after all.
"""

from __future__ import annotations

import secrets
from tempfile import TemporaryFile
from typing import BinaryIO, Callable, Dict, Iterable, Iterator, List, Optional, Set, Tuple, Union

from ..manifest import dumps, loads
from ..minisign import PublicKey, verify
from ..progress import Progress, megabytes
from ..semver import Version, parse
from .api import PAUSES, ApiError, Body, Release, Server
from .pack import write_package
from .tree import PublishError, Tree

_CHUNK = 2**16  # each must be gone within the timeout: 2 kB/s are enough
Part = Union[bytes, BinaryIO]
Signer = Callable[[bytes], str]  # a manifest -> its .minisig text


def upload(
    tree: Tree, server: Server, fields: Dict[str, str], sign: Optional[Signer] = None
) -> str:
    """Publish the tree with the form's other `fields`; gives back the line that says what happened.

    Raises:
        PublishError: the version is there with other content, or the server refuses, or does not answer.
    """
    version = parse(tree.manifest.version)
    release = server.find(version)
    if release is not None:
        return _already_there(tree, server, release, sign)
    manifest = dumps(tree.manifest)
    files: List[Tuple[str, str, Part]] = [("manifest", "update.json", manifest)]
    if sign is not None:
        files.append(("signature", "update.json.minisig", sign(manifest).encode()))
    for seconds in (*PAUSES[:2], None):
        missing = server.missing(tree)
        try:
            _send(tree, server, missing, fields, files)
            return _uploaded(tree, missing)
        except ApiError as error:
            release = server.find(version)
            if release is not None and error.passing:  # only the answer was lost
                _check_same(tree, server, release)
                return _uploaded(tree, missing)
            if release is not None:  # somebody else was faster
                return _already_there(tree, server, release, sign)
            if seconds is None or not (
                error.passing or error.code == "incomplete"
            ):  # incomplete: contents went away meanwhile
                raise
            server.pause(seconds, error)
    raise AssertionError("the last try returns or raises")


def _send(
    tree: Tree,
    server: Server,
    missing: Set[str],
    fields: Dict[str, str],
    files: List[Tuple[str, str, Part]],
) -> None:
    with TemporaryFile() as package:
        write_package(tree, package, missing)
        content_type, size, parts = form(fields, [*files, ("file", "update.zip", package)])
        with Progress("sending", size) as progress:
            server.upload(Body(content_type, size, _counted(_chunks(parts), progress)))


def _counted(chunks: Iterable[bytes], progress: Progress) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        progress.advance(len(chunk))


def _uploaded(tree: Tree, missing: Set[str]) -> str:
    contents = tree.contents()
    sent = [entry.size for entry in contents if entry.sha256 in missing]
    return (
        f"uploaded {tree.manifest.version}: {len(sent)} of {len(contents)} files sent, "
        f"{megabytes(sum(sent))} of {megabytes(sum(entry.size for entry in contents))}"
    )


def _check_same(tree: Tree, server: Server, release: Release) -> bytes:
    """The manifest of a release that must be what we publish."""
    manifest = server.manifest(release)
    theirs = loads(manifest)
    if theirs._replace(app=theirs.app or tree.manifest.app, version="") != tree.manifest._replace(
        version=""
    ):
        version = release.version.text
        raise PublishError(
            f"{version} is on the server with other content; a published version never changes, so choose a new version number"
        )
    return manifest


def _already_there(tree: Tree, server: Server, release: Release, sign: Optional[Signer]) -> str:
    """Nothing to send for the same content. It is not activated: an old build job that runs again must not move the fleet back."""
    version, manifest = release.version.text, _check_same(tree, server, release)
    line = f"{version} is on the server with the same content; nothing to send"
    if sign is not None and manifest == dumps(
        tree.manifest
    ):  # never sign bytes that only the server vouches for
        server.replace_signature(release.version, sign(manifest))
        line += "; signed anew"
    return (
        line
        if release.is_active
        else f"{line}; it is not active (`activate {version}` makes it so)"
    )


def resign(server: Server, version: Version, trusted: PublicKey, sign: Signer) -> None:
    """Give a release a newer signature, if it has one by the same key: the server's word alone is not worth a signature."""
    release = server.find(version)
    if release is None or not release.signature:
        raise PublishError(
            f"{version.text} is not on the server, or not signed; `upload --key` signs what a folder vouches for"
        )
    manifest = server.manifest(release)
    verify([trusted], manifest, release.signature)
    if parse(loads(manifest).version) != version:
        raise PublishError(
            f"the server shows the manifest of {loads(manifest).version!r} as that of {version.text}; nothing was signed"
        )
    server.replace_signature(release.version, sign(manifest))


def form(fields: Dict[str, str], files: List[Tuple[str, str, Part]]) -> Tuple[str, int, List[Part]]:
    """multipart/form-data (RFC 7578) of text fields and (name, file name, contents): its type, size, and parts."""
    boundary = secrets.token_hex(16)
    parts: List[Part] = []
    for name, value in fields.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        parts.append(f"{head}{value}\r\n".encode("utf-8", "replace"))
    for name, file_name, contents in files:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{file_name}"\r\n'
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
