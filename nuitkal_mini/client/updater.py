"""The story of an update, top to bottom.

Recover what was interrupted -> check/ -> manifest -> compare with the files on disk -> stage what is missing, over the
fewest bytes -> swap, as one transaction -> start the program, whatever happened before.
"""
from __future__ import annotations

import contextlib
import fnmatch
import logging
import os
import sys
import urllib.parse
from pathlib import Path
from typing import Iterator, List, Optional, Sequence, Tuple

from ..archive import read_tree
from ..manifest import MAX_BYTES, UPDATE_FOLDER, Manifest, dumps, loads
from ..problem import Problem
from ..semver import parse
from .arrange import Changes
from .config import UpdaterConfig
from .disk import Disk, Held, Lock, check_owned
from .errors import CheckError, DownloadError, InstallError, LaunchError, RollbackError, UpdaterError, VerificationError
from .install import Installation
from .launch import start
from .release import MAX_CHECK_BYTES, Release, parse_release
from .staging import Package, Staging
from .state import State
from .transport import Transport

logger = logging.getLogger(__name__)

LOG_BYTES = 10**6
MAX_STARTS = 3  # of a release on trial that never lived long enough to confirm itself


class ClientUpdater:
    """Keeps the program in `config.client_dir` up to date, and starts it."""

    def __init__(self, config: UpdaterConfig, *, disk: Optional[Disk] = None) -> None:
        self.config = config
        self._disk = disk or Disk()
        self._log_handler: Optional[logging.Handler] = None

    def __enter__(self) -> ClientUpdater:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the log file."""
        if self._log_handler is not None:
            logging.getLogger(__package__).removeHandler(self._log_handler)
            self._log_handler.close()
            self._log_handler = None

    @property
    def installed_version(self) -> Optional[str]:
        """The version that is installed, None before the first install."""
        state = self._place().state()
        return state.version if state else None

    def check(self) -> Optional[Release]:
        """The server's active release, or None when the installed version is the active one.

        Raises:
            CheckError: the server cannot be reached, or does not say.
        """
        with self._working():
            release = self._ask()
            state = self._place().state()
            return release if self._wanted(release, state) else None

    def update(self, force: bool = False) -> bool:
        """Install the active release, or repair the installed one; whether any file came.

        Args:
            force: install also a version that was rolled back before.

        Raises:
            UpdaterError: the sentence says what happened; the installed program is whole.
        """
        with self._working() as place:
            return self._update(place, self._ask(), force)

    def update_and_run(self, args: Optional[Sequence[str]] = None, force: bool = False) -> int:
        """Update if possible, start the program in any case; its exit code.

        Raises:
            LaunchError: there is nothing to start, or it cannot be started.
        """
        try:
            with self._working() as place:
                self._update(place, self._ask(self.config.check_seconds), force)
        except UpdaterError as error:
            logger.warning("%s; starting what is installed", error)
        return self.run(args)

    def run(self, args: Optional[Sequence[str]] = None) -> int:
        """Start the program and wait for it; its exit code. `args` are its arguments, None: those of this process.

        Raises:
            LaunchError: it cannot be started.
        """
        arguments = list(sys.argv[1:] if args is None else args)
        place = self._place()
        with contextlib.closing(self._right_to_run(place)) as held:
            logger.info("starting %s", self.config.main_script)
            child = start(self.config.main_script, Path(place.folder), arguments, python=self.config.python, pass_fds=held.descriptors)
            code = child.wait()
            assert code is not None
            return code

    def rollback(self) -> str:
        """Go back to the version before, and keep the one that leaves away; the version that is installed now.

        Raises:
            RollbackError: there is none; nothing was changed.
        """
        with self._working() as place, self._swap(place, RollbackError):
            return place.rollback(_identifier(), "asked for").version

    def verify(self) -> List[str]:
        """The paths of the installed release that are missing or not as they were installed.

        Raises:
            VerificationError: no release is installed, or its manifest is not known.
        """
        with self._working() as place:
            files = place.installed()
            if not files:
                raise VerificationError(f"nothing that could be verified is installed in {place.folder}; run update first")
            return [entry.path for entry in place.damaged(files)]

    def status(self) -> List[Tuple[str, str]]:
        """What is installed, as (name, value) pairs for people."""
        with self._working() as place:
            state = place.state()
            if state is None:
                return [("installed", "nothing")]
            lines = [("installed", state.version), ("files", str(len(place.installed()))), ("app", state.app or "not named")]
            if state.backup:
                lines.append(("rollback", "possible"))
            if state.bad:
                lines.append(("kept away", state.bad[0]))
            return lines

    # --- the steps ------------------------------------------------------------------------------

    def _place(self) -> Installation:
        """The client folder, as the configuration says now."""
        self._open_log()
        config = self.config
        folder = os.path.abspath(config.client_dir)
        if "/" in config.version_file or "\\" in config.version_file:
            raise InstallError(f"version_file must be a plain name, not {config.version_file}")
        patterns = tuple(config.preserve)

        def preserved(path: str) -> bool:
            return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)

        return Installation(folder, config.version_file, disk=self._disk, preserved=preserved, launcher=_launcher_in(folder))

    @contextlib.contextmanager
    def _working(self) -> Iterator[Installation]:
        """The client folder to ourselves, with nothing half done in it; disk errors become sentences."""
        place = self._place()
        try:
            folder = place.at(UPDATE_FOLDER)
            os.makedirs(folder, 0o755, exist_ok=True)
            check_owned(folder)
            held = self._lock(place).update(self.config.lock_seconds)
            if held is None:
                raise InstallError(f"another updater is at work in {place.folder}; try again when it is done")
            with held:
                self._recover(place)
                yield place
        except OSError as error:
            name = error.filename if error.filename is not None else place.folder
            raise InstallError(f"{name}: {error.strerror or error}") from error

    def _lock(self, place: Installation) -> Lock:
        return Lock(place.at(UPDATE_FOLDER))

    def _recover(self, place: Installation) -> None:
        if place.pending():
            with self._swap(place, InstallError):
                place.recover()
        else:
            place.recover()

    @contextlib.contextmanager
    def _swap(self, place: Installation, error: type) -> Iterator[None]:
        """The right to change files: nobody runs the program meanwhile."""
        held = self._lock(place).swap(0)
        if held is None:
            raise error(f"the program in {place.folder} is running; close it and try again")
        with held:
            yield

    def _transport(self) -> Transport:
        config = self.config
        return Transport(config.check_api_url, timeout_seconds=config.timeout, retries=config.retries, verify_ssl=config.verify_ssl,
                         ca_file=config.ca_file, headers=config.headers, chunk_size=config.chunk_size)

    def _ask(self, deadline_seconds: Optional[float] = None) -> Release:
        """The active release; a start does not wait for a server that is away."""
        url = self.config.check_api_url
        installed = self.installed_version
        if installed:
            url += ("&" if urllib.parse.urlsplit(url).query else "?") + urllib.parse.urlencode({"version": installed})
        logger.info("%s is installed, asking %s", installed or "nothing", self.config.check_api_url)
        try:
            document = self._transport().read(url, MAX_CHECK_BYTES, deadline_seconds=deadline_seconds, retry=deadline_seconds is None)
        except DownloadError as error:
            raise CheckError(str(error)) from error
        if document.is_html:
            raise CheckError(f"{self.config.check_api_url} answered with a web page; the network may want a login in the browser first")
        return parse_release(document.body, document.url)

    def _wanted(self, release: Release, state: Optional[State]) -> bool:
        """Whether the active release is another one that this client may go to."""
        if state is None:
            return True
        installed, offered = parse(state.version), release.precedence
        if offered < installed and self.config.allow_downgrade is False:
            logger.info("the server's active version %s is lower than %s; staying", release.version, state.version)
            return False
        return offered != installed

    def _update(self, place: Installation, release: Release, force: bool) -> bool:
        state = place.state()
        if not self._wanted(release, state) and state is not None:
            return self._repair(place, release, state)
        if state is not None and state.bad == _bad(release) and not force:
            logger.warning("%s was rolled back here before; staying with %s until the server offers another", release.version, state.version)
            return False
        transport = self._transport()
        package = Package(release.download_url, release.file_hash, release.file_size)
        staging = Staging(place, transport, package, self._progress)
        text, manifest = self._manifest(release, state, transport, staging, place)
        identifier = _identifier()
        new = State(
            version=release.version, id=identifier, backup=identifier if state else "", manifest=text.decode("utf-8"),
            app=manifest.app or (state.app if state else ""), package=release.file_hash,
            highest=_higher(state.highest or state.version if state else "", release.version),
            trial=0 if state and self.config.confirm_seconds > 0 else -1)
        return self._bring(place, staging, manifest, new)

    def _repair(self, place: Installation, release: Release, state: State) -> bool:
        """The installed release is the right one: mend what is damaged, and nothing else."""
        manifest = state.tree()
        damaged = place.damaged(manifest.files) if manifest else []
        if manifest is None or not damaged:
            logger.info("%s is up to date", state.version)
            place.clear_staging()
            return False
        if release.precedence != parse(state.version):
            raise VerificationError(f"{damaged[0].path} is damaged, and the server offers {release.version} only; roll back or allow it")
        logger.warning("%d files of %s are damaged or missing (%s); repairing", len(damaged), state.version, damaged[0].path)
        staging = Staging(place, self._transport(), Package(release.download_url, release.file_hash, release.file_size), self._progress)
        staging.open(state.manifest.encode("utf-8"))
        return self._bring(place, staging, manifest, state._replace(id=_identifier()))

    def _manifest(self, release: Release, state: Optional[State], transport: Transport, staging: Staging,
                  place: Installation) -> Tuple[bytes, Manifest]:
        """The manifest's bytes and meaning; a server that has none sends the package, and its tree is the manifest."""
        try:
            if release.manifest_url:
                text = transport.read(release.manifest_url, MAX_BYTES).body
                manifest = loads(text)
                staging.open(text)
            else:
                staging.open(f"{release.version} {release.file_hash}".encode())
                with open(staging.whole_package(), "rb") as file:
                    manifest = read_tree(file, "", release.version)
                text = dumps(manifest)
        except Problem as error:
            raise VerificationError(f"release {release.version}: {error}; nothing was installed") from error
        self._check_manifest(manifest, release, state)
        return text, manifest

    def _check_manifest(self, manifest: Manifest, release: Release, state: Optional[State]) -> None:
        if parse(manifest.version) != release.precedence:
            raise VerificationError(f"the server offers {release.version} with the manifest of {manifest.version}; nothing was installed")
        known = self.config.app or (state.app if state else "")
        if known and manifest.app and manifest.app != known:
            raise VerificationError(f"the release is one of {manifest.app}, this is {known}; nothing was installed")
        if any(entry.path == self.config.version_file for entry in manifest.files):
            raise VerificationError(f"the release brings {self.config.version_file}, which is the updater's own; nothing was installed")

    def _bring(self, place: Installation, staging: Staging, manifest: Manifest, state: State) -> bool:
        """Stage what is missing, and swap; False when the program runs and the update has to wait, staged."""
        source_of = staging.source_of(manifest)

        def arrange() -> Changes:
            return place.arrange(manifest.files, state.id, source_of)

        into = arrange().into
        logger.info("%s: %d of %d files change", state.version, len(into), len(manifest.files))
        staging.fill(manifest, [(move.source, move.entry) for move in into])
        logger.info("%s is downloaded and verified, %.1f kB travelled", state.version, staging.fetched / 1e3)
        held = self._lock(place).swap(0)
        if held is None:
            logger.info("the program is running; %s will be installed at the next start", state.version)
            return False
        with held:
            changes = arrange()  # the program may have changed files since
            place.install(changes, state)
        logger.info("%s is installed: %d files came, %d left", state.version, len(changes.into), len(changes.out))
        return True

    def _right_to_run(self, place: Installation) -> Held:
        """A lock under which no file of the program changes; what was interrupted is finished or undone first."""
        try:
            if place.pending():
                with self._working():
                    pass
        except InstallError as error:
            raise LaunchError(f"the program is between two versions and cannot start: {error}") from error
        try:
            held = self._lock(place).run(self.config.lock_seconds)
        except OSError as error:
            logger.debug("no lock on %s (%s): nobody can update it from here either", place.folder, error)
            return Held()
        if held is None or place.pending():
            raise LaunchError(f"an update of {place.folder} is being installed; start again when it is done")
        return held

    def _progress(self, downloaded: int, total: int) -> None:
        if self.config.progress_callback is not None:
            self.config.progress_callback(downloaded, total)

    def _open_log(self) -> None:
        if self.config.log_file is None or self._log_handler is not None:
            return
        from logging.handlers import RotatingFileHandler  # not at the top: most apps have no log file, and it loads sockets and queues
        try:
            self._log_handler = RotatingFileHandler(self.config.log_file, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8")
        except OSError as error:
            logger.warning("no log file: %s", error)
            self.config.log_file = None
            return
        self._log_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log = logging.getLogger(__package__)
        log.addHandler(self._log_handler)
        log.setLevel(min(log.getEffectiveLevel(), logging.INFO))


def _identifier() -> str:
    return os.urandom(8).hex()


def _bad(release: Release) -> Tuple[str, str]:
    return release.version, release.file_hash


def _higher(one: str, other: str) -> str:
    return one if one and parse(one) >= parse(other) else other


def _launcher_in(folder: str) -> str:
    """The path of the running launcher in the app's tree; empty when it lies elsewhere."""
    launcher = os.path.realpath(sys.argv[0]) if sys.argv and sys.argv[0] else ""
    root = os.path.realpath(folder)
    return os.path.relpath(launcher, root).replace(os.sep, "/") if launcher.startswith(root + os.sep) else ""
