"""The command line of the server: serve a data folder, make users, make and revoke tokens."""

from __future__ import annotations

import argparse
import getpass
import ipaddress
import logging
import os
import signal
import socket
import ssl
import sys
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterator, List, Optional, TextIO
from urllib.parse import urlsplit

from ..minisign import PublicKey, SignatureError, parse_public_key
from ..problem import Problem
from . import attempts, auth
from .api import MAX_UPLOAD, Settings
from .application import Application
from .attempts import RateLimiter
from .backup import back_up
from .check_data import check_data
from .database import Database
from .delta_maker import BUSY, DeltaMaker, limit_resources, make_next
from .export import GRACE_SECONDS as GRACE_SECONDS_OF_FILES
from .export import Exported, export, watch
from .http.server import HttpServer, listen, tls_context
from .http.wsgi import access_logger
from .releases import rfc3339
from .service_manager import inherited_listener, notify_ready
from .store import open_database
from .workers import Stop, run_workers

GRACE_SECONDS = 10.0  # for running requests after SIGTERM
DELTAS = 5  # releases whose users get a delta; the others fetch ranges of the package
SHELL = "command line"  # as whom the log names whoever may write the data folder anyway


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def main(argv: Optional[List[str]] = None) -> int:
    """Run one command; returns its exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.keyfile and not args.certfile:
        parser.error("--keyfile needs --certfile")
    if args.workers > 1 and not hasattr(os, "fork"):
        parser.error("--workers above 1 needs fork, which this system does not have")
    try:
        code: Optional[int] = args.run(args)
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nuitkal_mini.server",
        description="Serve releases to clients. Without a command: serve.",
    )
    parser.set_defaults(run=serve)
    _add_data(parser, Path("nuitkal_data"))
    _add_serving(parser)
    _add_keeping(parser)
    commands = parser.add_subparsers(metavar="COMMAND")
    _add_users_and_tokens(commands)
    _add_copies(commands)
    return parser


def _add_serving(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=_between(0, 65535), default=8000, help="0 takes a free one")
    parser.add_argument(
        "--public-url",
        type=_public_url,
        metavar="URL",
        help="what URLs begin with (default: the address of each request)",
    )
    parser.add_argument(
        "--workers",
        type=_between(1, 64),
        default=1,
        metavar="N",
        help="processes that serve the same port, one for each core in use (default: 1)",
    )
    parser.add_argument("--certfile", help="serve HTTPS with this certificate chain (PEM)")
    parser.add_argument("--keyfile", help="its private key, when it is not in the same file")
    parser.add_argument(
        "--public-key",
        action="append",
        default=[],
        type=_public_key,
        metavar="MINISIGN_KEY",
        help="take only releases that this key has signed, or another one given in the same way",
    )
    parser.add_argument(
        "--trusted-proxy",
        action="append",
        default=[],
        type=_network,
        metavar="ADDRESS",
        help="believe its X-Forwarded-For and X-Forwarded-Proto; loopback is trusted anyway",
    )
    parser.add_argument("--no-admin", action="store_true", help="no admin site")
    parser.add_argument(
        "--admin-host",
        metavar="HOST",
        help="the admin site only under this name, or over this address of the machine",
    )


def _add_keeping(parser: argparse.ArgumentParser) -> None:
    """What is stored, and how much of it."""
    parser.add_argument(
        "--max-upload",
        type=_between(1, 2**50),
        default=MAX_UPLOAD,
        metavar="BYTES",
        help="default: 4 GiB",
    )
    parser.add_argument(
        "--max-data",
        type=_between(1, 2**60),
        metavar="BYTES",
        help="refuse uploads that would make the data folder larger (default: the disk's room)",
    )
    parser.add_argument(
        "--keep",
        type=_between(0, 10**6),
        metavar="N",
        help="when a release becomes active, delete all but the N newest that were uploaded before "
        "it; never the next lower version, or the one that was active before (default: all stay)",
    )
    parser.add_argument(
        "--deltas",
        type=_between(0, 100),
        default=DELTAS,
        metavar="N",
        help="make deltas from the last N releases of a channel to its active one (default: 5)",
    )


def _add_copies(commands: Commands) -> None:
    """Backup, static site, and the check of a data folder."""
    backup = commands.add_parser(
        "backup", help="copy the data folder while servers work on it; again: only what is new"
    )
    backup.set_defaults(run=make_backup)
    _add_data(backup)
    backup.add_argument("destination", type=Path, metavar="DEST")
    site = commands.add_parser(
        "export", help="write a static site, same paths, for any web server or CDN"
    )
    site.set_defaults(run=export_site)
    _add_data(site)
    site.add_argument("out", type=Path, metavar="OUT")
    site.add_argument(
        "--public-url",
        type=_public_url,
        default=None,
        metavar="URL",
        help="what URLs begin with (default: they are relative)",
    )
    site.add_argument(
        "--prune", action="store_true", help="delete files that no release has had for --grace"
    )
    site.add_argument(
        "--grace",
        type=_between(0, 10**9),
        default=int(GRACE_SECONDS_OF_FILES),
        metavar="SECONDS",
        help="default: a day",
    )
    site.add_argument("--watch", action="store_true", help="export again after every change")
    delta = commands.add_parser(
        "make-delta", help="make the delta that is missing next; the server itself runs this"
    )
    delta.set_defaults(run=make_delta)
    _add_data(delta)
    delta.add_argument("--deltas", type=_between(0, 100), default=argparse.SUPPRESS, metavar="N")
    check = commands.add_parser(
        "check-data", help="read every row and file; a sentence for each fault, exit code 11"
    )
    check.set_defaults(run=show_faults)
    _add_data(check)


def _add_users_and_tokens(commands: Commands) -> None:
    user = commands.add_parser("createsuperuser", help="make a user of the admin site")
    user.set_defaults(run=create_superuser)
    _add_data(user)
    user.add_argument("--username", required=True)
    user.add_argument(
        "--password-stdin",
        action="store_true",
        help="read the password from the first line of standard input",
    )
    unlock = commands.add_parser(
        "unlock", help="forget all failed logins of the last minute, so that nobody has to wait"
    )
    unlock.set_defaults(run=forget_failures)
    _add_data(unlock)
    verbs = commands.add_parser(
        "token", help="make, list and revoke the tokens that publish"
    ).add_subparsers(metavar="VERB", required=True)
    for verb, run, text in (
        ("create", create_token, "print a new token"),
        ("list", list_tokens, "name, created, last used"),
        ("revoke", revoke_token, "end a token"),
    ):
        command = verbs.add_parser(verb, help=text)
        command.set_defaults(run=run)
        _add_data(command)
        if verb != "list":
            command.add_argument("name")


def _add_data(parser: argparse.ArgumentParser, default: object = argparse.SUPPRESS) -> None:
    """Add --data; a default in a subcommand would overwrite the one given before it."""
    parser.add_argument(
        "--data",
        type=Path,
        default=default,
        metavar="FOLDER",
        help="database and releases; made when missing (default: ./nuitkal_data)",
    )


def _between(lowest: int, highest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdigit() or not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {lowest} to {highest}")
        return int(text)

    return number


def _public_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an address such as https://updates.example.com"
        )
    return text.rstrip("/")


def _public_key(text: str) -> PublicKey:
    try:
        return parse_public_key(text)
    except SignatureError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a minisign public key: the line of 56 characters that begins with RW"
        ) from error


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


# --- the commands -------------------------------------------------------------------------------


def serve(args: argparse.Namespace) -> int:
    """Serve until SIGTERM, SIGINT or Ctrl-Break; then finish what is running."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if _is_discarded(sys.stderr):  # a line costs a fifth of a request
        access_logger.setLevel(logging.WARNING)
    with _listen(args) as listener:
        if args.workers == 1:
            return _serve(args, listener, _stop_on_signals, show_address=True)
        if args.certfile:  # each worker loads it; a fault shall show before the first one starts
            with _certificate_named(args):
                tls_context(args.certfile, args.keyfile)
        with closing(open_database(args.data)) as database:
            show_first_credentials(database)
        return run_workers(
            args.workers,
            lambda watch: _serve(args, listener, watch),
            lambda: _show_address(args, listener),
        )


def _is_discarded(stream: TextIO) -> bool:
    """Whether the stream leads to the null device, so that nobody reads what is written there."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(os.devnull))
    except (OSError, ValueError):  # no file, or closed
        return False


def _serve(
    args: argparse.Namespace,
    listener: socket.socket,
    watch: Callable[[Stop], None],
    show_address: bool = False,
) -> int:
    """Serve in this process; `watch` gets what ends it."""
    try:
        application = Application(
            args.data,
            Settings(
                args.public_url,
                args.max_upload,
                tuple(args.public_key),
                not args.no_admin,
                args.admin_host,
                args.max_data,
                args.keep,
            ),
        )
        maker = DeltaMaker(application.store.database, args.data, args.deltas)
        try:
            server = _server(application, listener, args)
            if show_address:
                show_first_credentials(application.store.database)
            watch(lambda: server.shutdown(GRACE_SECONDS))
            if show_address:
                _show_address(args, listener)
            maker.start()
            server.serve_forever()
            return 0
        finally:
            maker.close()
            application.close()
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1


def _stop_on_signals(stop: Stop) -> None:
    for name in ("SIGTERM", "SIGINT", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: stop())


def _show_address(args: argparse.Namespace, listener: socket.socket) -> None:
    host = args.host or listener.getsockname()[0]
    host = f"[{host}]" if ":" in host else host
    scheme = "https" if args.certfile else "http"
    print(f"Serving on {scheme}://{host}:{listener.getsockname()[1]}/", flush=True)
    with suppress(OSError):  # a service manager that does not listen any more
        notify_ready()


def _listen(args: argparse.Namespace) -> socket.socket:
    inherited = inherited_listener()
    if inherited is not None:
        args.host = ""  # the socket's own address is shown
        return inherited
    try:
        return listen(args.host, args.port)
    except (OSError, OverflowError) as error:
        raise Problem(
            "cannot listen on {host}, port {port}: {reason}; --host and --port choose another "
            "place",
            host=args.host,
            port=args.port,
            reason=getattr(error, "strerror", None) or error,
        ) from error


def _server(
    application: Application, listener: socket.socket, args: argparse.Namespace
) -> HttpServer:
    with _certificate_named(args):
        return HttpServer(
            application,
            listener,
            args.certfile,
            args.keyfile,
            args.trusted_proxy,
            is_multiprocess=args.workers > 1,
        )


@contextmanager
def _certificate_named(args: argparse.Namespace) -> Iterator[None]:
    """Turns the errors of a certificate into sentences that name it."""
    try:
        yield
    except ssl.SSLError as error:
        raise Problem(
            "{file} and its key cannot be used for HTTPS: {reason}",
            file=args.certfile,
            reason=error.reason,
        ) from error
    except FileNotFoundError as error:
        raise Problem("the certificate {file} or its key is missing", file=args.certfile) from error
    except OSError as error:
        raise Problem(
            "the certificate {file} or its key cannot be read: {reason}",
            file=args.certfile,
            reason=error.strerror or error,
        ) from error


def show_first_credentials(database: Database) -> None:
    """Make an admin user and a token for a data folder without users, and print both once."""
    made = auth.first_credentials(database, SHELL)
    if made:
        token = f"\n  token: {made.token}" if made.token else ""
        print(
            f"This data folder is new. Shown only this once:\n  admin user: {made.username}\n  "
            f"password: {made.password}{token}",
            file=sys.stderr,
            flush=True,
        )


def create_superuser(args: argparse.Namespace) -> None:
    """Make a user of the admin site."""
    if args.password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = getpass.getpass(f"Password of {args.username}: ")
        if getpass.getpass("The same again: ") != password:
            raise Problem("the two passwords differ; no user was made")
    with closing(open_database(args.data)) as database:
        auth.create_user(database, args.username, password, SHELL)


def make_backup(args: argparse.Namespace) -> None:
    """Bring a backup up to date."""
    done = back_up(args.data, args.destination)
    print(
        f"backed up {args.data} into {args.destination}: {done.new_files} of {done.files} files "
        f"are new, {done.new_bytes / 1e6:.1f} MB"
    )


def export_site(args: argparse.Namespace) -> None:
    """Bring a static site up to date, once or after every change."""

    def run() -> Exported:
        return export(args.data, args.out, args.public_url, args.prune, float(args.grace))

    for done in watch(args.data, run) if args.watch else [run()]:
        print(
            f"exported {args.data} into {args.out}: {done.written} files written, "
            f"{done.deleted} deleted",
            flush=True,
        )


def show_faults(args: argparse.Namespace) -> int:
    """Print a line for each fault of the data folder; 11 when there is one."""
    found = 0
    for sentence in check_data(args.data):
        print(sentence, flush=True)
        found += 1
    if not found:
        print(f"{args.data} is whole")
    return 11 if found else 0


def make_delta(args: argparse.Namespace) -> int:
    """Make one delta; BUSY when another process is at it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    limit_resources()
    return 0 if make_next(args.data, args.deltas) else BUSY


def forget_failures(args: argparse.Namespace) -> None:
    """Forget failed logins and wrong tokens: everybody may try again at once."""
    with closing(RateLimiter(args.data / attempts.FILE)) as limiter:
        limiter.forget()


def create_token(args: argparse.Namespace) -> None:
    """Print a new token, and nothing else."""
    with closing(open_database(args.data)) as database:
        print(auth.create_token(database, args.name, SHELL))


def list_tokens(args: argparse.Namespace) -> None:
    """A line for each token, without its secret."""
    with closing(open_database(args.data)) as database:
        for token in auth.list_tokens(database):
            used = (
                "never used"
                if token.last_used_at is None
                else f"last used {rfc3339(token.last_used_at)}"
            )
            print(f"{token.name}\tcreated {rfc3339(token.created_at)}\t{used}")


def revoke_token(args: argparse.Namespace) -> None:
    """End a token."""
    with closing(open_database(args.data)) as database:
        auth.revoke_token(database, args.name, SHELL)


if __name__ == "__main__":
    sys.exit(main())
