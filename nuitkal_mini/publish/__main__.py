"""`python -m nuitkal_mini.publish`: arguments in, one call, an exit code out.

Exit codes: 0 done, 1 failed, 2 usage, 130 Ctrl-C. Each command returns an `Outcome`, printed as a
line for people or, with --json, as a document for programs.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import re
import sys
import time
import unicodedata
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Dict, Iterator, List, Optional

from ..manifest import Terms, dumps
from ..minisign import key_name, parse_signatures
from ..problem import Problem
from ..progress import megabytes
from ..signing import SecretKey, public_key, sign
from . import static_site, vendor
from .api import ApiClient, PublishedRelease
from .arguments import Command, make_parser
from .keys import (
    keygen,
    load_secret_key,
    new_password,
    password_for,
    public_path,
    refuse_existing,
    trusted_comment,
)
from .pack import write_package
from .rotate import rotate
from .tree import FolderTree, PublishError, read_tree
from .upload import Outcome, Signer, resign, upload

MAX_CHANGELOG_BYTES = 2**20


def main(argv: Optional[List[str]] = None) -> int:
    """Run one command; errors become one sentence on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A path that the console's code page lacks is no failure.
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = make_parser(COMMANDS).parse_args(argv)
    try:
        outcome = arguments.run(arguments)
        print(json.dumps(outcome.document) if arguments.json else outcome.text)
        return 0
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr, flush=True)
        os._exit(130)  # threads that hash or deflate a large file would be waited for otherwise
    except (PublishError, Problem) as error:
        sentence = str(error)
    except OSError as error:
        sentence = _os_sentence(error)
    print(f"error: {sentence}", file=sys.stderr)
    return 1


def _os_sentence(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    is_full = error.errno == errno.ENOSPC
    hint = " (TMPDIR names another folder for temporary files)" if is_full else ""
    return f"{where}{error.strerror or error}{hint}"


# --- a folder becomes a release


def _pack(arguments: argparse.Namespace) -> Outcome:
    output: Path = arguments.output
    is_zip = output.suffix.lower() == ".zip"
    beside = output.with_suffix(".json") if is_zip else output.with_name(output.name + ".json")
    if not output.parent.is_dir():
        raise PublishError(f"{output.parent} is not a folder; make it first")
    tree = _tree(arguments, output, beside)
    wanted = None
    if arguments.server:
        if not arguments.token:
            raise PublishError("--server needs --token, or NUITKAL_TOKEN")
        wanted = _server(arguments).missing(tree)
    with _replacing(output) as package, _replacing(beside) as manifest:
        manifest.write(dumps(tree.manifest))
        write_package(tree, package, wanted)
        size = package.tell()
    packed = [entry.size for entry in tree.contents() if wanted is None or entry.sha256 in wanted]
    version = tree.manifest.version
    return Outcome(
        f"packed {version}: {len(packed)} files, {megabytes(sum(packed))}, "
        f"in {output} ({megabytes(size)}) and {beside}",
        {
            "version": version,
            "files": len(packed),
            "bytes": sum(packed),
            "package": str(output),
            "package_bytes": size,
            "manifest": str(beside),
        },
    )


def _upload(arguments: argparse.Namespace) -> Outcome:
    # Before minutes of hashing, as it may ask for passwords.
    signer = _signer(_secrets(arguments)) if arguments.key else None
    changelog = _changelog(arguments)
    tree = _tree(arguments)
    fields = {
        "version": tree.manifest.version,
        "is_active": "no" if arguments.inactive else "yes",
        "changelog": changelog,
    }
    return upload(tree, _server(arguments), fields, signer, warn=_warn, dry_run=arguments.dry_run)


def _static(arguments: argparse.Namespace) -> Outcome:
    site, channel, version = arguments.site, arguments.channel, arguments.release
    needs = {"activate": ["release"], "promote": ["release", "source"], "list": []}
    for name in needs.get(arguments.what, ["app", "version"]):
        if getattr(arguments, name) is None:
            shown = {"release": "a version", "source": "--from"}.get(name, f"--{name}")
            arguments.usage.error(f"{arguments.what} needs {shown}")
    if arguments.what == "activate":
        text = f"{static_site.activate(site, channel, version)} is active in {channel}"
    elif arguments.what == "promote":
        active = not arguments.inactive
        moved = static_site.promote(site, channel, version, arguments.source, active)
        text = f"promoted {moved} from {arguments.source} to {channel}"
    elif arguments.what == "list":
        releases = static_site.releases(site, channel)
        text = "\n".join(
            f"{release.version}  {release.upload_time}  {megabytes(release.file_size)}"
            + ("  active" if release.is_active else "")
            for release in releases
        )
        return Outcome(text, {"versions": [release._asdict() for release in releases]})
    else:
        arguments.folder = Path(arguments.what)
        text = static_site.publish(
            site,
            channel,
            _tree(arguments),
            changelog=_changelog(arguments),
            is_active=not arguments.inactive,
            sign=_signer(_secrets(arguments)) if arguments.key else None,
        )
    made = static_site.make_deltas(site, channel, arguments.delta_from)
    if made:
        text += f"; deltas made: {made}"
    return Outcome(text, {"message": text})


def _tree(arguments: argparse.Namespace, *outputs: Path) -> FolderTree:
    folder: Path = arguments.folder
    top = os.path.realpath(folder)
    inside = frozenset(
        unicodedata.normalize("NFC", Path(os.path.relpath(os.path.realpath(file), top)).as_posix())
        for file in outputs
    )
    terms = Terms(
        arguments.minimum, arguments.python, tuple(arguments.platform), tuple(arguments.revoke)
    )
    tree = read_tree(
        folder,
        arguments.app,
        arguments.version.text,
        arguments.exclude,
        inside,
        terms,
        unicodedata.normalize("NFC", arguments.main.replace(os.sep, "/")),
    )
    if tree.empty_folders:
        shown = ", ".join(tree.empty_folders[:5]) + (", …" if tree.empty_folders[5:] else "")
        _warn(f"a release has no empty folders; left out: {shown}")
    return tree


def _changelog(arguments: argparse.Namespace) -> str:
    name: Optional[str] = arguments.changelog_file
    if name is None:
        return str(arguments.changelog)
    if name == "-":
        content = sys.stdin.buffer.read(MAX_CHANGELOG_BYTES + 1)
    else:
        with open(name, "rb") as file:
            content = file.read(MAX_CHANGELOG_BYTES + 1)
    if len(content) > MAX_CHANGELOG_BYTES:
        raise PublishError(f"{name} is larger than 1 MiB; is it the changelog?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PublishError(f"{name} is not UTF-8; save it as UTF-8") from error


def _warn(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when it is complete, and leaves nothing otherwise."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "w+b") as out:
            yield out
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# --- releases on the server


def _server(arguments: argparse.Namespace) -> ApiClient:
    base: str = arguments.server.rstrip("/") + "/"
    if arguments.channel:
        if re.search("/channels/[^/]+/$", base):
            raise PublishError("--server names a channel already; leave out --channel, or that")
        base += f"channels/{arguments.channel}/"
    return ApiClient(base, arguments.token)


def _list(arguments: argparse.Namespace) -> Outcome:
    releases = list(_server(arguments).releases())
    return Outcome(
        "\n".join(map(_line, releases)) or "no releases",
        {"count": len(releases), "versions": [release.fields for release in releases]},
    )


def _line(release: PublishedRelease) -> str:
    fields = release.fields
    size = megabytes(int(fields.get("file_size") or 0))
    line = f"{release.version.text}  {fields.get('upload_time') or '-'}  {size}"
    signed = "  signed" if release.signature else ""
    return line + signed + ("  active" if release.is_active else "")


def _show(arguments: argparse.Namespace) -> Outcome:
    release = _server(arguments).get(arguments.version)
    fields = release.fields
    keys = (
        [key_name(made.key_id) for made in parse_signatures(release.signature or "")]
        if (release.signature)
        else []
    )
    lines = [
        _line(release),
        f"package:   {fields.get('download_url')}",
        f"sha256:    {fields.get('file_hash')}",
        f"manifest:  {release.manifest_url}",
        f"signed by: {', '.join(keys) or 'nobody'}",
    ]
    changelog = str(fields.get("changelog") or "")
    return Outcome("\n".join(lines + ([changelog] if changelog else [])), fields)


def _activate(arguments: argparse.Namespace) -> Outcome:
    version = _server(arguments).activate(arguments.version)
    return Outcome(f"{version} is active", {"version": version, "is_active": True})


def _promote(arguments: argparse.Namespace) -> Outcome:
    release = _server(arguments).promote(
        arguments.version, arguments.source, not arguments.inactive
    )
    state = "active" if release.is_active else "not active"
    return Outcome(
        f"promoted {release.version.text} from {arguments.source}; it is {state}", release.fields
    )


def _delete(arguments: argparse.Namespace) -> Outcome:
    server = _server(arguments)
    release = server.get(arguments.version)
    if release.is_active:
        raise PublishError(f"{release.version.text} is active; activate another release first")
    return _delete_all(server, [release], arguments.dry_run)


def _prune(arguments: argparse.Namespace) -> Outcome:
    server = _server(arguments)
    older = list(server.releases())[arguments.keep :]
    return _delete_all(
        server, [release for release in older if not release.is_active], arguments.dry_run
    )


def _delete_all(server: ApiClient, releases: List[PublishedRelease], dry_run: bool) -> Outcome:
    versions = [release.version.text for release in releases]
    if not dry_run:
        for release in releases:
            server.delete(release.version)
    verb = "would delete" if dry_run else "deleted"
    return Outcome(f"{verb} {', '.join(versions) or 'nothing'}", {"deleted": versions})


def _resign(arguments: argparse.Namespace) -> Outcome:
    secrets = _secrets(arguments)
    trusted = [public_key(secret) for secret in secrets]
    resign(_server(arguments), arguments.version, trusted, _signer(secrets))
    version = arguments.version.text
    return Outcome(f"signed {version} again", {"version": version})


# --- keys


def _keygen(arguments: argparse.Namespace) -> Outcome:
    refuse_existing(arguments.file)
    public = keygen(arguments.file, new_password(arguments.password_stdin))
    return Outcome(
        f"wrote {arguments.file} (keep it secret, and keep a copy) and "
        f"{public_path(arguments.file)}; clients trust the public key {public}",
        {"file": str(arguments.file), "public_key": str(public)},
    )


def _sign(arguments: argparse.Namespace) -> Outcome:
    file: Path = arguments.file
    content = file.read_bytes()
    signature = _signer(_secrets(arguments), file.name)(content)
    beside = file.with_name(file.name + ".minisig")
    with _replacing(beside) as out:
        out.write(signature.encode("utf-8"))
    return Outcome(f"wrote {beside}", {"file": str(beside)})


def _rotate(arguments: argparse.Namespace) -> Outcome:
    paths = [arguments.key, arguments.new]
    old, new = (_secret(path, arguments.password_stdin) for path in paths)
    active = not arguments.inactive
    return rotate(_server(arguments), arguments.version, old, new, _signer([old, new]), active)


def _signer(secrets: List[SecretKey], name: str = "update.json") -> Signer:
    """Signs with each of the keys, in their order; `name` is that of a file that is no manifest."""

    def sign_with_all(content: bytes) -> str:
        comment = trusted_comment(content, name, int(time.time()))
        return "".join(sign(secret, content, comment) for secret in secrets)

    return sign_with_all


def _secrets(arguments: argparse.Namespace) -> List[SecretKey]:
    return [_secret(path, arguments.password_stdin) for path in arguments.key]


def _secret(path: Path, from_stdin: bool) -> SecretKey:
    return load_secret_key(path, lambda: password_for(path, from_stdin))


def _vendor(arguments: argparse.Namespace) -> Outcome:
    vendor.write(arguments.destination, arguments.window)
    size = arguments.destination.stat().st_size
    return Outcome(
        f"wrote {arguments.destination} ({megabytes(size)})",
        {"file": str(arguments.destination), "bytes": size},
    )


COMMANDS: Dict[str, Command] = {
    "pack": _pack,
    "upload": _upload,
    "static": _static,
    "list": _list,
    "show": _show,
    "activate": _activate,
    "promote": _promote,
    "delete": _delete,
    "prune": _prune,
    "resign": _resign,
    "keygen": _keygen,
    "sign": _sign,
    "rotate": _rotate,
    "vendor": _vendor,
}


if __name__ == "__main__":
    sys.exit(main())
