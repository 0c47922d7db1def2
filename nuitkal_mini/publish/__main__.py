"""`python -m nuitkal_mini.publish`: arguments in, one call, an exit code out (0 done, 1 failed, 2 usage, 130 Ctrl-C)."""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import sys
import time
import unicodedata
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Callable, Iterator, List, Optional
from urllib.parse import urlsplit

from ..manifest import Terms, check_app, dumps
from ..problem import Problem
from ..progress import megabytes
from ..semver import parse
from ..signing import SecretKey, public_key, sign
from . import static_site, vendor
from .api import Server
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
from .tree import PublishError, Tree, read_tree
from .upload import Signer, resign, upload


def main(argv: Optional[List[str]] = None) -> int:
    """Run one command; errors become one sentence on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # a path that the console's code page lacks is no failure
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
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
    hint = (
        " (TMPDIR names another folder for temporary files)" if error.errno == errno.ENOSPC else ""
    )
    return f"{where}{error.strerror or error}{hint}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nuitkal_mini.publish", description="Publish a folder as a release."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    pack = commands.add_parser("pack", help="write a folder's package and manifest to files")
    _tree_arguments(pack)
    _server_arguments(pack, required=False)
    pack.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="OUT.zip",
        help="the package; the manifest is written beside it as OUT.json",
    )
    pack.set_defaults(run=_pack)

    send = commands.add_parser("upload", help="publish a folder: send what the server lacks")
    _tree_arguments(send)
    _server_arguments(send)
    send.add_argument("--changelog", default="", metavar="TEXT")
    send.add_argument(
        "--inactive", action="store_true", help="publish it, and leave the active release as it is"
    )
    _key_arguments(send, required=False)
    send.set_defaults(run=_upload)

    activate = commands.add_parser("activate", help="make a release the active one")
    activate.add_argument("version", type=_argument(parse))
    _server_arguments(activate)
    activate.set_defaults(run=_activate)

    promote = commands.add_parser("promote", help="take a release over from another channel")
    promote.add_argument("version", type=_argument(parse))
    promote.add_argument("--from", required=True, dest="channel", metavar="CHANNEL")
    promote.add_argument(
        "--inactive", action="store_true", help="leave the active release as it is"
    )
    _server_arguments(promote)
    promote.set_defaults(run=_promote)

    again = commands.add_parser(
        "resign", help="sign a published release again: the same content, a newer time"
    )
    again.add_argument("version", type=_argument(parse))
    _server_arguments(again)
    _key_arguments(again)
    again.set_defaults(run=_resign)

    static = commands.add_parser(
        "static",
        help="keep a site in a local folder, for any web server or bucket",
        usage="%(prog)s OUT DIR --app NAME --version V [--key KEY] [--inactive] [--channel C]\n"
        "       %(prog)s OUT activate V|promote V --from C|list [--channel C]",
    )
    static.add_argument("site", type=Path, metavar="OUT")
    static.add_argument("what", metavar="DIR|activate|promote|list")
    static.add_argument("release", nargs="?", type=_argument(parse), metavar="V")
    static.add_argument("--channel", default=static_site.STABLE, metavar="C")
    static.add_argument("--from", dest="source", metavar="C")
    static.add_argument("--changelog", default="", metavar="TEXT")
    static.add_argument("--inactive", action="store_true", help="leave the active release as it is")
    _release_arguments(static, required=False)
    _key_arguments(static, required=False)
    static.set_defaults(run=_static, usage=static)

    new_key = commands.add_parser(
        "keygen", help="make a key pair, FILE and FILE.pub, for --key and for clients"
    )
    new_key.add_argument("file", type=Path, metavar="FILE")
    new_key.add_argument("--password-stdin", action="store_true")
    new_key.set_defaults(run=_keygen)

    one_file = commands.add_parser(
        "vendor", help="write the client as one file, for a launcher to carry along"
    )
    vendor.add_arguments(one_file)
    one_file.set_defaults(run=_vendor)

    detached = commands.add_parser("sign", help="write FILE.minisig")
    detached.add_argument("file", type=Path, metavar="FILE")
    _key_arguments(detached)
    detached.set_defaults(run=_sign)
    return parser


def _tree_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR")
    _release_arguments(parser)


def _release_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "--app",
        required=required,
        type=_argument(check_app),
        metavar="NAME",
        help="the program's name, the same for all its releases",
    )
    parser.add_argument("--version", required=required, type=_argument(parse))
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out, as in .nuitkalignore",
    )
    parser.add_argument(
        "--minimum",
        default="",
        metavar="V",
        help="clients that saw this release refuse versions below V for ever (signed releases)",
    )
    parser.add_argument(
        "--python",
        default="",
        metavar="COMPARISONS",
        help="needed by this release, such as '>=3.9,<3.13'",
    )
    parser.add_argument(
        "--platform",
        action="append",
        default=[],
        metavar="NAME",
        help="needed by this release, such as linux-x86_64 or windows-*; repeat it",
    )
    parser.add_argument(
        "--revoke",
        action="append",
        default=[],
        metavar="KEY_ID",
        help="clients trust this key, newer than the one that signs, no more; repeat it",
    )


def _server_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    token = os.environ.get("NUITKAL_TOKEN")
    parser.add_argument(
        "--server",
        required=required,
        type=_argument(_base_url),
        metavar="URL",
        help="http(s)://host/api/nuitkal_pack/, or a channel's .../channels/beta/",
    )
    parser.add_argument(
        "--token",
        required=required and not token,
        default=token,
        type=_argument(_token),
        help="else NUITKAL_TOKEN",
    )


def _key_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "--key",
        required=required,
        type=Path,
        metavar="KEY",
        help="sign with this secret key (of `keygen` or minisign)",
    )
    parser.add_argument(
        "--password-stdin",
        action="store_true",
        help="the key's password is a line of standard input",
    )


def _argument(parse_text: Callable[[str], Any]) -> Callable[[str], Any]:
    """What argparse calls: the sentence of a refusal becomes its message."""

    def convert(text: str) -> Any:
        try:
            return parse_text(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    known = (
        parts.scheme in ("http", "https")
        and parts.hostname
        and parts.port != 0
        and not parts.query + parts.fragment
    )
    if not known or not re.fullmatch("[!-~]+", text):
        raise ValueError(f"{text!r} is not an address such as https://host/api/nuitkal_pack/")
    return text


def _token(text: str) -> str:
    if not re.fullmatch("[!-~]+", text.strip()):
        raise ValueError(
            "the token is empty or has characters that no token has"
        )  # and is not shown
    return text.strip()


def _server(arguments: argparse.Namespace) -> Server:
    return Server(arguments.server, arguments.token)


def _tree(arguments: argparse.Namespace, *outputs: Path) -> Tree:
    folder: Path = arguments.folder
    top = os.path.realpath(folder)
    inside = frozenset(
        unicodedata.normalize("NFC", Path(os.path.relpath(os.path.realpath(file), top)).as_posix())
        for file in outputs
    )
    terms = Terms(
        arguments.minimum, arguments.python, tuple(arguments.platform), tuple(arguments.revoke)
    )
    return read_tree(
        folder, arguments.app, arguments.version.text, arguments.exclude, inside, terms
    )


def _pack(arguments: argparse.Namespace) -> None:
    output: Path = arguments.output
    beside = (
        output.with_suffix(".json")
        if output.suffix.lower() == ".zip"
        else output.with_name(output.name + ".json")
    )
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
    print(
        f"packed {tree.manifest.version}: {len(packed)} files, {megabytes(sum(packed))}, in {output} ({megabytes(size)}) and {beside}"
    )


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when it is complete, and leaves nothing when it is not."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "w+b") as out:
            yield out
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _upload(arguments: argparse.Namespace) -> None:
    signer = (
        _signer(_secret(arguments)) if arguments.key else None
    )  # asks for the password before minutes of hashing
    tree = _tree(arguments)
    fields = {
        "version": tree.manifest.version,
        "is_active": "no" if arguments.inactive else "yes",
        "changelog": arguments.changelog,
    }
    print(upload(tree, _server(arguments), fields, signer))


def _signer(secret: SecretKey) -> Signer:
    return lambda content: sign(
        secret, content, trusted_comment(content, "update.json", int(time.time()))
    )


def _secret(arguments: argparse.Namespace) -> SecretKey:
    return load_secret_key(
        arguments.key, lambda: password_for(arguments.key, arguments.password_stdin)
    )


def _activate(arguments: argparse.Namespace) -> None:
    print(f"{_server(arguments).activate(arguments.version)} is active")


def _promote(arguments: argparse.Namespace) -> None:
    release = _server(arguments).promote(
        arguments.version, arguments.channel, not arguments.inactive
    )
    print(
        f"promoted {release.version.text} from {arguments.channel}; it is {'active' if release.is_active else 'not active'}"
    )


def _resign(arguments: argparse.Namespace) -> None:
    secret = _secret(arguments)
    resign(_server(arguments), arguments.version, public_key(secret), _signer(secret))
    print(f"signed {arguments.version.text} again")


def _static(arguments: argparse.Namespace) -> None:
    site, channel, version = arguments.site, arguments.channel, arguments.release
    needs = {"activate": ["release"], "promote": ["release", "source"], "list": []}
    for name in needs.get(arguments.what, ["app", "version"]):
        if getattr(arguments, name) is None:
            shown = {"release": "a version", "source": "--from"}.get(name, f"--{name}")
            arguments.usage.error(f"{arguments.what} needs {shown}")
    if arguments.what == "activate":
        print(f"{static_site.activate(site, channel, version)} is active in {channel}")
    elif arguments.what == "promote":
        active = not arguments.inactive
        moved = static_site.promote(site, channel, version, arguments.source, active)
        print(f"promoted {moved} from {arguments.source} to {channel}")
    elif arguments.what == "list":
        for release in static_site.releases(site, channel):
            mark = "  active" if release.is_active else ""
            size = megabytes(release.file_size)
            print(f"{release.version}  {release.upload_time}  {size}{mark}")
    else:
        signer = _signer(_secret(arguments)) if arguments.key else None
        arguments.folder = Path(arguments.what)
        print(
            static_site.publish(
                site,
                channel,
                _tree(arguments),
                changelog=arguments.changelog,
                is_active=not arguments.inactive,
                sign=signer,
            )
        )


def _keygen(arguments: argparse.Namespace) -> None:
    refuse_existing(arguments.file)
    public = keygen(arguments.file, new_password(arguments.password_stdin))
    print(
        f"wrote {arguments.file} (keep it secret, and keep a copy) and {public_path(arguments.file)}; clients trust the public key {public}"
    )


def _sign(arguments: argparse.Namespace) -> None:
    file: Path = arguments.file
    content = file.read_bytes()
    signature = sign(
        _secret(arguments), content, trusted_comment(content, file.name, int(time.time()))
    )
    beside = file.with_name(file.name + ".minisig")
    with _replacing(beside) as out:
        out.write(signature.encode("utf-8"))
    print(f"wrote {beside}")


def _vendor(arguments: argparse.Namespace) -> None:
    vendor.write(arguments.destination, arguments.window)
    size = arguments.destination.stat().st_size
    print(f"wrote {arguments.destination} ({megabytes(size)})")


if __name__ == "__main__":
    sys.exit(main())
