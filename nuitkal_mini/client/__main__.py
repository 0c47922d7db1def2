"""The client's command line: one verb, one call, one exit code."""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Tuple

from ..progress import Progress
from .config import UpdaterConfig
from .errors import UpdaterError
from .updater import ClientUpdater

if TYPE_CHECKING:
    import argparse

OTHER_VERSION, DAMAGED = 10, 11


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command line; its exit code."""
    parser = _parser()
    options = _parse(parser, sys.argv[1:] if arguments is None else arguments)
    if options.verb in ASKING and not options.url:
        parser.error(f"{options.verb} needs --url")
    if not options.dir:  # an unset variable in a script would mean the current folder
        parser.error("--dir needs the name of a folder")
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(message)s",
        stream=sys.stderr,
    )
    config = UpdaterConfig(
        options.url,
        options.dir,
        main_script=options.main,
        python=options.python,
        app=options.app,
        public_keys=options.public_key,
        ca_file=options.ca_file,
        preserve=options.preserve,
        log_file=options.log_file,
        confirm_seconds=options.confirm_seconds,
        verify_ssl=not options.insecure,
    )
    bar = None
    if sys.stderr is not None and sys.stderr.isatty():
        bar = Progress("downloading")
        config.progress_callback = bar
        logging.getLogger().handlers[0].addFilter(bar.end_line)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A path may have characters that the terminal's code page lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with ClientUpdater(config) as updater:
            act, _ = VERBS[options.verb]
            code = act(updater, options)
        print(end="", flush=True)
        return code
    except UpdaterError as error:
        if bar is not None:
            bar.end_line()
        print(f"{options.verb}: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # of what we print: the updater's own are UpdaterErrors
        # Or Python would try once more, and complain, when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(
            f"{options.verb}: what it found cannot be written to its output: {error.strerror}",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        if bar is not None:
            bar.end_line()
        print(f"{options.verb}: interrupted; what was downloaded is kept", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    # Not at the top: a launcher that has the client as one file does not pay for its command line.
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m nuitkal_mini.client" if __package__ else None,
        description="Keep a program up to date, and start it.",
        epilog="\n".join(
            ["verbs:"]
            + [f"  {name:<10}{text}" for name, (_, text) in VERBS.items()]
            + ["", "After -- come the program's arguments."]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=sorted(VERBS), metavar="VERB", help="one of those below")
    parser.add_argument("--url", default="", help="the server's check/, of the channel to follow")
    parser.add_argument("--dir", required=True, help="the folder that holds the program")
    parser.add_argument("--main", default="main.py", help="what to start in it (default: main.py)")
    parser.add_argument(
        "--force",
        action="store_true",
        help=(
            "install also a version that was rolled back; adopt: begin anew where the state is lost"
        ),
    )
    parser.add_argument(
        "--public-key",
        action="append",
        default=[],
        metavar="KEY",
        help="install only what this minisign key signed; repeatable, oldest first",
    )
    parser.add_argument("--app", help="the program's name; another program's release is refused")
    parser.add_argument("--python", help="the interpreter for a .py")
    parser.add_argument(
        "--preserve",
        action="append",
        default=[],
        metavar="PATTERN",
        help="files whose local edits survive",
    )
    parser.add_argument(
        "--confirm-seconds",
        type=float,
        default=0.0,
        help="how long a new version must live to be kept",
    )
    parser.add_argument("--ca-file", help="certificates (PEM) to trust in place of the system's")
    parser.add_argument("--insecure", action="store_true", help="accept any certificate")
    parser.add_argument("--log-file", help="where to log what the updater does; rotates at 1 MB")
    parser.add_argument("--verbose", action="store_true", help="log every detail too")
    return parser


def _parse(parser: argparse.ArgumentParser, arguments: List[str]) -> argparse.Namespace:
    """The options, with the program's arguments as `args`.

    argparse itself finds arguments after -- only where no option stands before.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:end])
    options.args = arguments[end + 1 :]
    return options


def _check(updater: ClientUpdater, options: argparse.Namespace) -> int:
    release = updater.check()
    older = updater.older_offer
    if older is not None:
        print(
            f"{updater.installed_version} stays: the server offers {older.version}, which is lower"
        )
    elif release is None:
        print(f"{updater.installed_version} is up to date")
    if release is None:
        return 0
    print(f"{release.version} is available, {updater.installed_version or 'nothing'} is installed")
    return OTHER_VERSION


def _update(updater: ClientUpdater, options: argparse.Namespace) -> int:
    changed = updater.update(options.force)  # where nothing changed, the log says why
    print(f"{updater.installed_version} {'is' if changed else 'stays'} installed")
    return 0


def _run(updater: ClientUpdater, options: argparse.Namespace) -> int:
    return updater.update_and_run(options.args, options.force)


def _rollback(updater: ClientUpdater, options: argparse.Namespace) -> int:
    print(f"{updater.rollback()} is installed again")
    return 0


def _verify(updater: ClientUpdater, options: argparse.Namespace) -> int:
    damaged = updater.verify()
    for path in damaged:
        print(path)
    return DAMAGED if damaged else 0


def _status(updater: ClientUpdater, options: argparse.Namespace) -> int:
    for name, value in updater.status():
        print(f"{name}: {value}")
    return 0


def _confirm(updater: ClientUpdater, options: argparse.Namespace) -> int:
    updater.confirm()
    return 0


def _adopt(updater: ClientUpdater, options: argparse.Namespace) -> int:
    print(f"what is in {options.dir} is taken for version {updater.adopt(options.force)}")
    return 0


ASKING = frozenset(["adopt", "check", "run", "update"])
# What each verb calls, and its line in --help: a vendored client has no docstrings.
VERBS: Dict[str, Tuple[Callable[[ClientUpdater, argparse.Namespace], int], str]] = {
    "adopt": (_adopt, "Take the files that are in the folder for the program."),
    "check": (_check, "Say whether the server offers another version: exit code 10 if it does."),
    "confirm": (_confirm, "Keep the version that is on trial."),
    "rollback": (_rollback, "Go back to the version before, and keep the newer one away."),
    "run": (_run, "Update if possible, then start the program; its exit code."),
    "status": (_status, "Say what is installed."),
    "update": (_update, "Install the active release, or repair the installed one."),
    "verify": (
        _verify,
        "List damaged files of the installed release: exit code 11 if there are any.",
    ),
}


if __name__ == "__main__":
    sys.exit(main())
