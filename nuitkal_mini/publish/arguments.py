"""The command line of `python -m nuitkal_mini.publish`: its verbs and their arguments."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any, Callable, Dict
from urllib.parse import urlsplit

from ..manifest import check_app
from ..semver import parse
from . import static_site, vendor

CHANNEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
Command = Callable[[argparse.Namespace], Any]


def make_parser(commands: Dict[str, Command]) -> argparse.ArgumentParser:
    """The parser; each verb's command goes into `run`."""
    parser = argparse.ArgumentParser(
        prog="python -m nuitkal_mini.publish", description="Publish a folder as a release."
    )
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, help: str, **options: Any) -> argparse.ArgumentParser:
        verb: argparse.ArgumentParser = verbs.add_parser(name, help=help, **options)
        verb.set_defaults(run=commands[name], usage=verb)
        verb.add_argument("--json", action="store_true", help="print the outcome as JSON")
        return verb

    _add_publishing(add)
    _add_releases(add)
    _add_keys(add)
    vendor.add_arguments(
        add("vendor", "write the client as one file, for a launcher to carry along")
    )
    return parser


def _add_publishing(add: Callable[..., argparse.ArgumentParser]) -> None:
    pack = add("pack", "write a folder's package and manifest to files")
    pack.add_argument("folder", type=Path, metavar="DIR")
    _release_arguments(pack)
    _server_arguments(pack, required=False)
    pack.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="OUT.zip",
        help="the package; the manifest is written beside it as OUT.json",
    )

    send = add("upload", "publish a folder: send what the server lacks")
    send.add_argument("folder", type=Path, metavar="DIR")
    _release_arguments(send)
    _server_arguments(send)
    _changelog_arguments(send)
    _inactive_argument(send)
    _key_arguments(send, required=False)
    send.add_argument(
        "--dry-run", action="store_true", help="say what would be sent, and send nothing"
    )

    static = add(
        "static",
        "keep a site in a local folder, for any web server or bucket",
        usage="%(prog)s OUT DIR --app NAME --version V [--key KEY] [--inactive] [--channel C]\n"
        "         [--delta-from N]\n"
        "       %(prog)s OUT activate V|promote V --from C|list [--channel C]",
    )
    static.add_argument("site", type=Path, metavar="OUT")
    static.add_argument("what", metavar="DIR|activate|promote|list")
    static.add_argument("release", nargs="?", type=argument(parse), metavar="V")
    static.add_argument("--channel", default=static_site.STABLE, metavar="C")
    static.add_argument("--from", dest="source", metavar="C")
    static.add_argument(
        "--delta-from",
        type=argument(_count),
        default=0,
        metavar="N",
        help="make deltas from the last N releases to the active one (default: 0)",
    )
    _changelog_arguments(static)
    _inactive_argument(static)
    _release_arguments(static, required=False)
    _key_arguments(static, required=False)


def _add_releases(add: Callable[..., argparse.ArgumentParser]) -> None:
    _server_arguments(add("list", "show the releases, newest upload first"))
    for name, help in (
        ("show", "show a release"),
        ("activate", "make a release the active one"),
        ("promote", "take a release over from another channel"),
        ("delete", "delete a release that is not active"),
        ("resign", "sign a published release again: the same content, a newer time"),
    ):
        verb = add(name, help)
        verb.add_argument("version", type=argument(parse), metavar="V")
        _server_arguments(verb)
        if name == "promote":
            verb.add_argument("--from", required=True, dest="source", metavar="CHANNEL")
            _inactive_argument(verb)
        elif name == "resign":
            _key_arguments(verb)
        elif name == "delete":
            verb.add_argument("--dry-run", action="store_true", help="delete nothing")

    prune = add("prune", "delete all but the newest releases and the active one")
    prune.add_argument("--keep", required=True, type=argument(_count), metavar="N")
    prune.add_argument("--dry-run", action="store_true", help="delete nothing")
    _server_arguments(prune)


def _add_keys(add: Callable[..., argparse.ArgumentParser]) -> None:
    new_key = add("keygen", "make a key pair, FILE and FILE.pub, for --key and for clients")
    new_key.add_argument("file", type=Path, metavar="FILE")
    new_key.add_argument("--password-stdin", action="store_true")

    detached = add("sign", "write FILE.minisig")
    detached.add_argument("file", type=Path, metavar="FILE")
    _key_arguments(detached)

    rotate = add("rotate", "publish the active release again, with a further key for clients")
    rotate.add_argument("--version", required=True, type=argument(parse), metavar="V")
    rotate.add_argument("--key", required=True, type=Path, metavar="OLD", help="signs until now")
    rotate.add_argument("--new", required=True, type=Path, metavar="NEW", help="signs from now on")
    rotate.add_argument("--password-stdin", action="store_true", help="a line for each key")
    _inactive_argument(rotate)
    _server_arguments(rotate)


def _release_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "--app",
        required=required,
        type=argument(check_app),
        metavar="NAME",
        help="the program's name, the same for all its releases",
    )
    parser.add_argument("--version", required=required, type=argument(parse))
    parser.add_argument(
        "--main", default="", metavar="PATH", help="the file that clients start, in DIR"
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
    for option, name, help in (
        ("--exclude", "PATTERN", "leave out, as in .nuitkalignore; repeat it"),
        ("--platform", "NAME", "needed by this release, such as linux-x86_64 or windows-*"),
        ("--revoke", "KEY_ID", "clients trust this key, newer than the one that signs, no more"),
    ):
        parser.add_argument(option, action="append", default=[], metavar=name, help=help)


def _changelog_arguments(parser: argparse.ArgumentParser) -> None:
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--changelog", default="", metavar="TEXT")
    either.add_argument("--changelog-file", metavar="F", help="UTF-8; - is standard input")


def _inactive_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--inactive", action="store_true", help="leave the active release as it is")


def _server_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    token = os.environ.get("NUITKAL_TOKEN")
    parser.add_argument(
        "--server",
        required=required,
        type=argument(_base_url),
        metavar="URL",
        help="http(s)://host/api/nuitkal_pack/, or a channel's .../channels/beta/",
    )
    parser.add_argument(
        "--channel", type=argument(_channel), metavar="C", help="else that of --server, or stable"
    )
    parser.add_argument(
        "--token",
        required=required and not token,
        default=token,
        type=argument(_token),
        help="else NUITKAL_TOKEN",
    )


def _key_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        required=required,
        type=Path,
        metavar="KEY",
        help="sign with this secret key (of `keygen` or minisign); repeat it to sign with several",
    )
    parser.add_argument(
        "--password-stdin",
        action="store_true",
        help="the key's password is a line of standard input",
    )


def argument(parse_text: Callable[[str], Any]) -> Callable[[str], Any]:
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


def _channel(text: str) -> str:
    if not CHANNEL.fullmatch(text):
        raise ValueError(f"{text!r} is not a channel: use a-z, 0-9, '.', '_' and '-', at most 64")
    return text


def _token(text: str) -> str:
    if not re.fullmatch("[!-~]+", text.strip()):
        # The sentence does not show the token.
        raise ValueError("the token is empty or has characters that no token has")
    return text.strip()


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,6}", text):
        raise ValueError(f"{text!r} is not a number of releases")
    return int(text)
