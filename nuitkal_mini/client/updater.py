"""The story of an update, top to bottom.

Recover what was interrupted -> check/ -> manifest -> compare with the files on disk -> stage what is missing, over the
fewest bytes -> swap, as one transaction -> start the program, whatever happened before.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple

from ..manifest import MAX_BYTES, Manifest, Terms, dumps
from ..paths import fold
from ..problem import Problem
from ..progress import readable_size
from ..semver import parse
from .client_folder import ClientFolder
from .config import UpdaterConfig
from .disk import Disk
from .errors import (
    CheckError,
    DownloadError,
    InstallError,
    LaunchError,
    RollbackError,
    UpdaterError,
    VerificationError,
)
from .install import STAGING, Installation
from .journal import new_identifier
from .launch import load_ahead, occupy_standard_streams, run, start
from .release import MAX_CHECK_BYTES, Release, parse_release
from .state import State
from .tree import IN_RELEASES
from .trial import Trial
from .trust import (
    DAY_SECONDS,
    Accepted,
    TrustState,
    accept,
    add_configured_keys,
    check_requirements,
    current,
    downgrade_floor,
    offer_timestamp,
    platform_name,
)

if (
    TYPE_CHECKING
):  # what a start, or an update that finds nothing, can do without comes in when it is used
    from .staging import Staging
    from .swap_plan import SwapPlan
    from .transport import Transport

logger = logging.getLogger(__name__)

MANIFEST_TIMEOUTS = 10  # a manifest comes within that many time-outs: slower than 1 kB/s is refused anyway, faster is at most 64 MiB


class ClientUpdater:
    """Keeps the program in `config.client_dir` up to date, and starts it."""

    def __init__(self, config: UpdaterConfig, *, disk: Optional[Disk] = None) -> None:
        self.config = config
        self._client_folder = ClientFolder(config, disk or Disk())
        self._trial = Trial(self._client_folder)
        self._transport: Transport  # one for each call: each new one reads the CA store, 65 ms
        self._failure: Optional[UpdaterError] = None  # of the update that this start tried
        occupy_standard_streams()

    def __enter__(self) -> ClientUpdater:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the log file."""
        self._client_folder.close()

    @property
    def installed_version(self) -> Optional[str]:
        """The version that is installed, None before the first install."""
        state = self._client_folder.open_unlocked().state()
        return state.version if state else None

    def check(self) -> Optional[Release]:
        """The server's active release, or None when the installed version is the active one.

        Raises:
            CheckError: the server cannot be reached, does not say, or shows nothing newer than `max_age_days`.
            VerificationError: it has no proof that the installed version is the active one.
        """
        with self._client_folder.working() as installation:
            state = installation.state()
            release = self._ask(state)
            trust = self._verify_installed_is_active(installation, release, state)
            age_days = self._age_days(release, trust)
            if age_days is not None:
                raise CheckError(
                    f"the newest signature here is {age_days:.0f} days old, {self.config.max_age_days:g} are allowed; "
                    "somebody may be holding updates back"
                )
            return release if self._may_install(release, state, trust) else None

    def update(self, force: bool = False) -> bool:
        """Install the active release, or repair the installed one; whether any file came.

        Args:
            force: install also a version that was rolled back before.

        Raises:
            UpdaterError: the sentence says what happened; the installed program is whole.
        """
        with self._client_folder.working() as installation:
            state = installation.state()
            return self._update(installation, state, self._ask(state), force)

    def update_and_run(self, args: Optional[Sequence[str]] = None, force: bool = False) -> int:
        """Update if possible, start the program in any case; its exit code.

        Raises:
            LaunchError: there is nothing to start, or it cannot be started.
        """
        self.try_update(force)
        return self.run(args)

    def try_update(self, force: bool = False) -> Optional[UpdaterError]:
        """Update if possible, as `update_and_run` does before it starts the program; what went wrong, if something did."""
        self._failure = None
        try:
            with self._client_folder.working() as installation:
                state = installation.state()
                try:
                    release = self._ask(state, self.config.check_seconds)
                except CheckError as error:
                    logger.warning("%s; starting what is here", error)
                    self._failure = error
                    self._install_staged(installation)
                else:
                    self._update(installation, state, release, force)
        except UpdaterError as error:
            logger.warning("%s; starting what is installed", error)
            self._failure = error
        return self._failure

    def run(self, args: Optional[Sequence[str]] = None) -> int:
        """Start the program and wait for it; its exit code. `args` are its arguments, None: those of this process.

        A new version on trial that crashes is rolled back, and the one before is started.

        Raises:
            LaunchError: it cannot be started.
        """
        arguments = list(sys.argv[1:] if args is None else args)
        installation = self._client_folder.open_unlocked()
        held, judges = self._trial.right_to_run(installation)
        with held:
            logger.info("starting %s", self.config.main_script)
            try:
                child = start(
                    self.config.main_script,
                    Path(installation.folder),
                    arguments,
                    python=self.config.python,
                    pass_fds=held.descriptors,
                )
            except LaunchError as error:
                if self._failure is None or installation.state() is not None:
                    raise
                raise LaunchError(f"nothing is installed yet: {self._failure}") from error
            code = child.wait(self.config.confirm_seconds) if judges else child.wait()
            if code is None:
                self._trial.end(confirmed=True)
                code = child.wait()
                judges = False
            assert code is not None
        if judges and self._trial.crashed(code, child.interrupted):
            return self.run(arguments)
        return code

    def run_launcher(self, args: Optional[Sequence[str]] = None) -> int:
        """Start `main_script`, a launcher that is in its own release, and wait for it; its exit code: what a stub beside it does.

        An interrupted update is finished or undone first. Unlike `run`, this holds no lock, or the launcher could never update
        itself, and judges no trial, as the launcher does that.

        Raises:
            LaunchError: it cannot be started.
        """
        try:
            with self._client_folder.working():
                pass
        except InstallError as error:
            logger.warning("%s; that is left to the launcher", error)
        arguments = sys.argv[1:] if args is None else args
        return run(
            self.config.main_script,
            Path(self._client_folder.open_unlocked().folder),
            arguments,
            python=self.config.python,
        )

    def confirm(self) -> None:
        """Called by a program that is up: the version on trial is kept."""
        self._trial.end(confirmed=True)

    def rollback(self) -> str:
        """Go back to the version before, and keep the one that leaves away; the version that is installed now.

        Raises:
            RollbackError: there is none; nothing was changed.
        """
        with self._client_folder.working() as installation, self._client_folder.swap_lock(
            installation, RollbackError
        ):
            return installation.rollback(new_identifier(), "asked for").version

    def adopt(self) -> str:
        """Take a folder that was filled by hand, or by another updater, for an installed release; the version it is taken for.

        What lies at the paths of the server's active release counts as the program from now on, so that an update replaces
        it, keeps it for a rollback, and fetches only what differs. All other files stay the user's.

        Raises:
            InstallError: a release is installed already.
        """
        with self._client_folder.working() as installation:
            state = installation.state()
            if state is not None and state.manifest:
                raise InstallError(
                    f"{state.version} is installed in {installation.folder} already; there is nothing to adopt"
                )
            release = self._ask(state)
            staging = self._staging(installation, release)
            accepted, _ = self._accept(installation, release, self._trust(state), staging)
            found = [installation.entry_at(entry.path) for entry in accepted.manifest.files]
            files = tuple(
                entry for entry in found if entry is not None and entry.mode in IN_RELEASES
            )
            version = state.version if state else "0"
            manifest = dumps(
                accepted.manifest._replace(version=version, files=files, terms=Terms())
            )
            installation.remember(
                State(version, manifest=manifest.decode("utf-8"), trust=self._trust(state))
            )
            return version

    def verify(self) -> List[str]:
        """The paths of the installed release that are missing or not as they were installed.

        Raises:
            VerificationError: no release is installed, or its manifest is not known.
        """
        with self._client_folder.working() as installation:
            files = installation.installed()
            if not files:
                raise VerificationError(
                    f"nothing that could be verified is installed in {installation.folder}; run update first"
                )
            return [entry.path for entry in installation.damaged(files)]

    def status(self) -> List[Tuple[str, str]]:
        """What is installed, as (name, value) pairs for people."""
        with self._client_folder.working() as installation:
            state = installation.state()
            if state is None:
                return [("installed", "nothing")]
            lines = [
                ("installed", state.version),
                ("files", str(len(installation.installed()))),
                ("app", state.trust.app or "not named"),
                ("signed", "only" if state.trust.keys else "not asked for"),
            ]
            if state.trial_starts is not None:
                lines.append(("on trial", f"{state.trial_starts} starts so far"))
            if state.backup:
                lines.append(("rollback", "possible"))
            if state.rolled_back is not None:
                lines.append(("kept away", state.rolled_back.version))
            return lines

    # --- the steps ------------------------------------------------------------------------------

    def _open_transport(self) -> Transport:
        from .transport import Transport  # and urllib, and ssl, with it

        config = self.config
        return Transport(
            config.check_api_url,
            timeout_seconds=config.timeout,
            retries=config.retries,
            verify_ssl=config.verify_ssl,
            ca_file=config.ca_file,
            headers=config.headers,
            chunk_size=config.chunk_size,
        )

    def _ask(self, state: Optional[State], deadline_seconds: Optional[float] = None) -> Release:
        """The active release; a start does not wait for a server that is away."""
        from urllib.parse import urlencode, urlsplit

        from .http_client import resolve

        installed = state.version if state else ""
        logger.info("%s is installed, asking %s", installed or "nothing", self.config.check_api_url)
        try:
            url = resolve(self.config.check_api_url, "")
            if installed:
                url += ("&" if urlsplit(url).query else "?") + urlencode({"version": installed})
            self._transport = self._open_transport()
            document = self._transport.read(
                url,
                MAX_CHECK_BYTES,
                deadline_seconds=deadline_seconds,
                retry=deadline_seconds is None,
            )
        except DownloadError as error:
            raise CheckError(str(error)) from error
        if document.is_html:
            raise CheckError(
                f"{self.config.check_api_url} answered with a web page; the network may want a login in the browser first"
            )
        return parse_release(document.body, document.url)

    def _trust(self, state: Optional[State]) -> TrustState:
        if state is None:
            return add_configured_keys(TrustState(), self.config.public_keys, "", "")
        return add_configured_keys(
            state.trust, self.config.public_keys, state.version, state.manifest
        )

    def _verify_installed_is_active(
        self, installation: Installation, release: Release, state: Optional[State]
    ) -> TrustState:
        """The memory, after the server has proved that it means what is installed, if it does; a newer proof is remembered."""
        trust = self._trust(state)
        if trust.keys and state is not None and release.precedence == parse(state.version):
            trust = current(state.manifest.encode("utf-8"), release.signature, trust, time.time())
            if trust != state.trust:
                installation.remember(state._replace(trust=trust))
        return trust

    def _age_days(self, release: Release, trust: TrustState) -> Optional[float]:
        """The age of the newest signature, that of the offer included, if it is more than the configuration allows."""
        limit, now = self.config.max_age_days, time.time()
        if limit is None or not trust.newest() or now - trust.newest() <= limit * DAY_SECONDS:
            return None
        age = (
            now - max(trust.newest(), offer_timestamp(release.signature, release.precedence, trust))
        ) / DAY_SECONDS
        return age if age > limit else None

    def _may_install(self, release: Release, state: Optional[State], trust: TrustState) -> bool:
        """Whether the active release is another one that this client may go to."""
        if state is None:
            return True
        installed, offered = parse(state.version), release.precedence
        lowest = downgrade_floor(trust, release.signature) if trust.keys else installed
        follows_down = (
            self.config.allow_downgrade is True
            or self.config.allow_downgrade is None
            and not trust.keys
        )
        if offered != installed and lowest is not None and offered < lowest and not follows_down:
            logger.info(
                "the server's active version %s is lower than %s; staying",
                release.version,
                lowest.text,
            )
            return False
        return offered != installed

    def _update(
        self, installation: Installation, state: Optional[State], release: Release, force: bool
    ) -> bool:
        trust = self._verify_installed_is_active(installation, release, state)
        age_days = self._age_days(release, trust)
        if age_days is not None:
            logger.warning(
                "the newest signature here is %.0f days old; somebody may be holding updates back",
                age_days,
            )
        if state is not None and not self._may_install(release, state, trust):
            return self._repair(installation, release, state._replace(trust=trust))
        if state is not None and _was_rolled_back(state, release, bool(trust.keys)) and not force:
            logger.warning(
                "%s was rolled back here before; staying with %s until the server offers another",
                release.version,
                state.version,
            )
            return False
        staging = self._staging(installation, release)
        accepted, text = self._accept(installation, release, trust, staging)
        identifier = new_identifier()
        return self._stage_and_swap(
            installation,
            staging,
            accepted.manifest,
            State(
                version=accepted.manifest.version if trust.keys else release.version,
                id=identifier,
                backup=identifier if state else "",
                manifest=text.decode("utf-8"),
                package=release.file_hash,
                trial_starts=0 if state and self.config.confirm_seconds > 0 else None,
                trust=accepted.trust,
            ),
        )

    def _repair(self, installation: Installation, release: Release, state: State) -> bool:
        """The installed release is the right one: mend what is damaged, and nothing else."""
        manifest = state.tree()
        stamp = installation.stamp(manifest.files, time.time()) if manifest else ""
        is_known = (
            stamp and stamp == state.stamp
        )  # 2 ms for 300 files of 900 MB; to read them takes 1 s from memory
        damaged = installation.damaged(manifest.files) if manifest and not is_known else []
        if manifest is None or not damaged:
            logger.info("%s is up to date", state.version)
            installation.clear_staging()
            self._remember_stamp(installation, state, stamp)
            return False
        if release.precedence != parse(state.version):
            raise VerificationError(
                f"{damaged[0].path} is damaged, and the server offers {release.version} only; roll back or allow it"
            )
        logger.warning(
            "%d files of %s are damaged or missing (%s); repairing",
            len(damaged),
            state.version,
            damaged[0].path,
        )
        staging = self._staging(installation, release)
        staging.open(state.manifest.encode("utf-8"))
        return self._stage_and_swap(
            installation, staging, manifest, state._replace(id=new_identifier())
        )

    def _remember_stamp(self, installation: Installation, state: State, stamp: str) -> None:
        """The next start need not read all files, if it can be written down."""
        if stamp and stamp != state.stamp:
            try:
                installation.remember(state._replace(stamp=stamp))
            except InstallError as error:
                logger.debug("%s; the next start reads every file again", error)

    def _staging(self, installation: Installation, release: Release) -> Staging:
        from .staging import Package, Staging

        return Staging(
            installation,
            self._transport,
            Package(release.download_url, release.file_hash, release.file_size),
            self._progress,
        )

    def _accept(
        self, installation: Installation, release: Release, trust: TrustState, staging: Staging
    ) -> Tuple[Accepted, bytes]:
        """The manifest, believed, and its bytes; a server that has none sends the package, whose tree is the manifest."""
        try:
            if release.manifest_url:
                text = self._transport.read(
                    release.manifest_url,
                    MAX_BYTES,
                    deadline_seconds=MANIFEST_TIMEOUTS * self.config.timeout,
                ).body
            elif trust.keys:
                raise VerificationError(
                    "the server has no manifest, and only signed releases are accepted here; nothing was installed"
                )
            else:
                text = self._manifest_of_package(installation, release, staging)
            accepted = accept(
                text,
                release.signature,
                trust,
                app=self.config.app,
                now=time.time(),
                floor=self.config.minimum_version or "",
                downgrade=self.config.allow_downgrade is True,
            )
        except Problem as error:
            raise VerificationError(
                f"release {release.version}: {error}; nothing was installed"
            ) from error
        manifest = accepted.manifest
        if not manifest.files:
            raise VerificationError(
                f"release {release.version} has no files; nothing was installed"
            )
        if parse(manifest.version) != release.precedence:
            raise VerificationError(
                f"the server offers {release.version} with the manifest of {manifest.version}; nothing was installed"
            )
        if any(
            fold(entry.path).split("/")[0] == fold(self.config.version_file)
            for entry in manifest.files
        ):
            raise VerificationError(
                f"the release brings {self.config.version_file}, which is the updater's own; nothing was installed"
            )
        check_requirements(
            manifest.terms, sys.version_info[:3], platform_name(sys.platform, _machine())
        )
        if release.manifest_url:
            staging.open(text)
        return accepted, text

    def _manifest_of_package(
        self, installation: Installation, release: Release, staging: Staging
    ) -> bytes:
        """The package's tree; a package that was staged while the program ran is not fetched again for it."""
        staging.open(f"{release.version} {release.file_hash}".encode())
        staged = installation.staged()
        if staged is not None:
            return staged.manifest.encode("utf-8")
        from ..zip_read import read_tree

        with open(staging.whole_package(), "rb") as file:
            return dumps(read_tree(file, "", release.version))

    def _install_staged(self, installation: Installation) -> None:
        """Without a server: what was staged, complete, while the program ran is installed now."""
        state, installed = installation.staged(), installation.state()
        manifest = state.tree() if state else None
        if state is None or manifest is None or installed is None:
            return
        known, trust = self._trust(installed), state.trust
        if known.keys != trust.keys or not set(known.revoked) <= set(trust.revoked):
            logger.warning("%s was staged under other keys; it waits for the server", state.version)
            return
        staged = {
            mark.key for mark in trust.marks
        }  # what other keys have vouched for since then stays remembered
        marks = trust.marks + tuple(mark for mark in known.marks if mark.key not in staged)
        self._stage_and_swap(
            installation, None, manifest, state._replace(trust=trust._replace(marks=marks))
        )

    def _stage_and_swap(
        self,
        installation: Installation,
        staging: Optional[Staging],
        manifest: Manifest,
        state: State,
    ) -> bool:
        """Stage what is missing, and swap; False when the program runs and the update has to wait, staged."""
        number = {entry.path: index for index, entry in enumerate(manifest.files)}

        def plan_swap() -> SwapPlan:
            return installation.plan_swap(
                manifest.files, state.id, lambda entry: f"{STAGING}/{number[entry.path]}"
            )

        if staging is not None:
            into = plan_swap().move_in
            logger.info("%s: %d of %d files change", state.version, len(into), len(manifest.files))
            staging.fill(manifest, [(move.source, move.entry) for move in into])
            logger.info(
                "%s is downloaded and verified, %s travelled",
                state.version,
                readable_size(staging.fetched),
            )
        held = self._client_folder.try_swap_lock(installation)
        if held is None:
            installation.stage(state)
            logger.info(
                "the program is running; %s will be installed at the next start", state.version
            )
            return False
        with held:
            load_ahead()
            changes = plan_swap()  # the program may have changed files since
            installation.install(changes, state)
        logger.info(
            "%s is installed: %d files came, %d left",
            state.version,
            len(changes.move_in),
            len(changes.move_out),
        )
        return True

    def _progress(self, downloaded: int, total: int) -> None:
        if self.config.progress_callback is None:
            return
        try:
            self.config.progress_callback(downloaded, total)
        except UpdaterError:
            raise
        except (
            Exception
        ) as error:  # the app's own code: whatever is wrong there, the program must start
            raise UpdaterError(f"progress_callback failed: {error!r}") from error


def _was_rolled_back(state: State, release: Release, signed: bool) -> bool:
    """Whether a rollback keeps this release away. Signed, one version is one tree, whatever check/ says of its package."""
    return (
        state.rolled_back is not None
        and parse(state.rolled_back.version) == release.precedence
        and (signed or state.rolled_back.package == release.file_hash)
    )


def _machine() -> str:
    if sys.platform == "win32":
        return os.environ.get("PROCESSOR_ARCHITECTURE", "")
    return os.uname().machine
