"""One update of one installation, step by step; `ClientUpdater.update` calls the steps in order.

Ask the server -> verify its proof -> believe the manifest -> stage what is missing, over the fewest
bytes -> swap, as one transaction.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Optional

from ..manifest import Manifest, Terms, dumps
from ..problem import Problem
from ..progress import Progress, readable_size
from ..semver import parse
from .client_folder import ClientFolder
from .config import UpdaterConfig
from .delta_download import download_delta, offered_delta
from .errors import InstallError, UpdaterError, VerificationError
from .install import STAGING, Installation
from .journal import new_identifier
from .launch import load_ahead
from .policy import (
    check_main,
    check_offer,
    check_requirements,
    freeze_warning,
    lowest_allowed,
    platform_name,
    was_rolled_back,
)
from .release import Release
from .release_source import ReleaseSource
from .staging import Package, Staging
from .start_update import StartUpdate
from .state import State
from .swap_plan import SwapPlan
from .tree import IN_RELEASES
from .trust import (
    TrustState,
    VerifiedManifest,
    accept,
    add_configured_keys,
    add_staged,
    current,
    is_signed_by_known_key,
    offer_timestamp,
    verify_manifest,
)

logger = logging.getLogger(__name__)


class Update:
    """An update of a locked and recovered installation; `trust` is the trust state so far."""

    def __init__(
        self,
        config: UpdaterConfig,
        client_folder: ClientFolder,
        installation: Installation,
        start: Optional[StartUpdate] = None,
    ) -> None:
        self._config = config
        self._start = start or StartUpdate()
        self._client_folder = client_folder
        self._installation = installation
        self._source = ReleaseSource(config)
        self.older: Optional[Release] = None  #: the offer, if it is too low to go to
        self._bar = terminal_bar(config)
        self._callback = config.progress_callback or self._bar
        self.state = installation.state()
        self.trust = trusted(config, self.state)

    def ask(self, retry: bool = True) -> Release:
        """The active release; without `retry` a refused connection is not tried again.

        Raises:
            CheckError: the server cannot be reached, or does not say.
        """
        installed = self.state.version if self.state else ""
        return self._source.active_release(installed, retry)

    def follow_rotations(self, release: Release) -> None:
        """Where no believed key has signed the release: believe the keys of a chain of manifests.

        Each manifest of the chain counts if a key has signed it that is believed when its turn
        comes; the others are passed over.
        """
        if not self.trust.keys or is_signed_by_known_key(release.signature, self.trust):
            return
        app = self._config.app
        for text, signature in self._source.rotations(release):
            try:
                verified = verify_manifest(text, signature, self.trust, app=app, now=time.time())
            except (Problem, VerificationError) as error:
                logger.info("a change of keys is passed over: %s", error)
                continue
            self._learn(verified.trust)
            if is_signed_by_known_key(release.signature, self.trust):
                return

    def verify_installed_is_active(self, release: Release) -> None:
        """If the server offers the installed version: verify its proof, and remember a newer one.

        Raises:
            VerificationError: the server has no valid signature of the installed manifest.
        """
        state = self.state
        if state is None or not self.trust.keys or release.precedence != parse(state.version):
            return
        if not state.manifest:  # installed by other means: `install` verifies the offered manifest
            if not offer_timestamp(
                release.signature, release.precedence, self.trust, self._config.app
            ):
                raise VerificationError(
                    f"the server has no valid signature of {release.version}, "
                    "and only signed releases are accepted here"
                )
            return
        text = state.manifest.encode("utf-8")
        self._learn(
            current(text, release.signature, self.trust, app=self._config.app, now=time.time())
        )

    def freeze_warning(self, release: Release) -> str:
        """A sentence if the newest signature is older than `max_age_days`, else nothing."""
        return freeze_warning(
            release, self.trust, self._config.max_age_days, self._config.app, time.time()
        )

    def lacks_proof(self, release: Release) -> bool:
        """Whether the offered version is here already, but installed by other means."""
        state = self.state
        return (
            bool(self.trust.keys)
            and state is not None
            and not state.manifest
            and parse(state.version) == release.precedence
        )

    def may_install(self, release: Release) -> bool:
        """Whether the active release is another one that this client may go to."""
        if self.state is None:
            return True
        installed, offered = parse(self.state.version), release.precedence
        lowest = lowest_allowed(release, self.state, self.trust, self._config.allow_downgrade)
        if offered != installed and lowest is not None and offered < lowest:
            logger.info(
                "the server's active version %s is lower than %s; staying",
                release.version,
                lowest.text,
            )
            self.older = release
            return False
        return offered != installed

    def was_rolled_back(self, release: Release) -> bool:
        """Whether a rollback keeps the release away."""
        if self.state is None or not was_rolled_back(self.state, release, bool(self.trust.keys)):
            return False
        logger.warning(
            "%s was rolled back here before; staying with %s until the server offers another",
            release.version,
            self.state.version,
        )
        return True

    def repair(self, release: Release) -> bool:
        """Mend what is damaged of the installed release, and nothing else; whether a file came.

        Raises:
            VerificationError: something is damaged, and the server offers another version only.
        """
        assert self.state is not None
        state = self.state._replace(trust=self.trust)
        manifest = self._installation.manifest()
        stamp = self._installation.stamp(manifest.files, time.time()) if manifest else ""
        # Comparing stamps takes 2 ms for 300 files of 900 MB; reading them takes 1 s from memory.
        is_known = stamp and stamp == state.stamp
        damaged = self._installation.damaged(manifest.files) if manifest and not is_known else []
        if manifest is None or not damaged:
            if release.precedence == parse(state.version):
                logger.info("%s is up to date", state.version)
            self._installation.clear_staging()
            self._remember_stamp(state, stamp)
            return False
        if release.precedence != parse(state.version):
            raise VerificationError(
                f"{damaged[0].path} is damaged, and the server offers {release.version} only; "
                "roll back or allow it"
            )
        logger.warning(
            "%d files of %s are damaged or missing (%s); repairing",
            len(damaged),
            state.version,
            damaged[0].path,
        )
        staging = self._staging(release)
        staging.open(state.manifest.encode("utf-8"))
        return self._stage_and_swap(staging, manifest, state._replace(id=new_identifier()))

    def install(self, release: Release) -> bool:
        """Download, verify and install the release; False when it has to wait, staged.

        Raises:
            UpdaterError: nothing was installed.
        """
        if self._install_staged(release):
            return True
        staging = self._staging(release)
        accepted = self._accept_delta(release, staging) or self._accept(release, staging)
        identifier = new_identifier()
        is_first = self.state is None
        state = State(
            version=accepted.manifest.version if self.trust.keys else release.version,
            id=identifier,
            backup="" if is_first else identifier,
            manifest=accepted.text.decode("utf-8"),
            package=release.file_hash,
            trial_starts=None if is_first else 0,
            trust=accepted.trust,
        )
        return self._stage_and_swap(staging, accepted.manifest, state)

    def adopt_found(self, release: Release) -> None:
        """Adopt a folder before its first install, if anything lies at the release's paths."""
        if self.state is not None and self.state.manifest:
            return
        accepted = self._accept(release, self._staging(release))
        if any(self._installation.entry_at(entry.path) for entry in accepted.manifest.files):
            self.adopt(release)

    def adopt(self, release: Release) -> str:
        """Take the files at the release's paths for an installed release; its version.

        They count as the version that the version file names, "0" without one. If that is the
        offered version, its own manifest counts, so that `update` repairs what differs.
        """
        accepted = self._accept(release, self._staging(release))
        version = self.state.version if self.state else "0"
        text, trust = accepted.text, accepted.trust
        if parse(version) != release.precedence:
            found = [self._installation.entry_at(entry.path) for entry in accepted.manifest.files]
            files = tuple(
                entry for entry in found if entry is not None and entry.mode in IN_RELEASES
            )
            own = accepted.manifest._replace(version=version, files=files, terms=Terms(), main="")
            text, trust = dumps(own), self.trust
        self.state = State(version, manifest=text.decode("utf-8"), trust=trust)
        self.trust = trust
        self._installation.remember(self.state)
        return version

    # --- the parts of a step ------------------------------------------------------------------

    def _staging(self, release: Release) -> Staging:
        package = Package(release.download_url, release.file_hash, release.file_size)
        return Staging(self._installation, self._source.transport, package, self._progress)

    def _accept_delta(self, release: Release, staging: Staging) -> Optional[VerifiedManifest]:
        """The release's manifest out of the delta to it, verified; None: there is no such delta."""
        state = self.state
        offer = offered_delta(release, state.version) if state and state.manifest else None
        if state is None or offer is None:
            return None
        delta = download_delta(
            self._installation,
            self._source.transport,
            offer,
            state.manifest.encode("utf-8"),
            self._progress,
        )
        if delta is None:
            return None
        try:
            accepted = self._verified(release, delta.manifest)
        except VerificationError as error:
            logger.warning("%s; asking for the manifest itself", error)
            return None
        staging.open(accepted.text, delta)
        return accepted

    def _accept(self, release: Release, staging: Staging) -> VerifiedManifest:
        """The release's manifest, verified; its `trust` is the trust state once it is installed."""
        accepted = self._verified(release, self._manifest_text(release, staging))
        if release.manifest_url:
            staging.open(accepted.text)
        return accepted

    def _install_staged(self, release: Release) -> bool:
        """Install the release without a further request, if all of it is staged already."""
        staged = self._installation.staged()
        if staged is None or not release.file_hash or staged.package != release.file_hash:
            return False
        try:
            return install_staged(
                self._config, self._client_folder, self._installation, self._start
            )
        except InstallError as error:
            logger.info("%s; what is staged is verified again", error)
            return False

    def _learn(self, trust: TrustState) -> None:
        """Remember a newer trust state at once, whatever becomes of the update."""
        self.trust = trust
        if self.state is not None and self.state.trust != trust:
            self.state = self.state._replace(trust=trust)
            try:
                self._installation.remember(self.state)
            except InstallError as error:  # a user who may not write may still check
                logger.info("%s; what was proved is not remembered", error)

    def _verified(self, release: Release, text: bytes) -> VerifiedManifest:
        app = self._config.app
        try:
            verified = verify_manifest(
                text, release.signature, self.trust, app=app, now=time.time()
            )
            self._learn(verified.trust)
            accepted = accept(
                verified,
                app=app,
                floor=self._config.minimum_version or "",
                downgrade=self._config.allow_downgrade is True,
            )
        except Problem as error:
            raise VerificationError(
                f"release {release.version}: {error}; nothing was installed"
            ) from error
        check_offer(accepted.manifest, release, self._config.version_file)
        check_main(accepted.manifest, self._config.main_script)
        check_requirements(
            accepted.manifest.terms, sys.version_info[:3], platform_name(sys.platform, processor())
        )
        return accepted

    def _manifest_text(self, release: Release, staging: Staging) -> bytes:
        """The manifest's bytes; where the server has none, those of the package's tree."""
        if release.manifest_url:
            return self._source.manifest_text(release)
        if self.trust.keys:
            raise VerificationError(
                "the server has no manifest, and only signed releases are accepted here; "
                "nothing was installed"
            )
        staging.open(f"{release.version} {release.file_hash}".encode())
        staged = self._installation.staged()
        if staged is not None:  # while the program ran: its package is not fetched again
            return staged.manifest.encode("utf-8")
        from ..zip_read import read_tree

        with open(staging.whole_package(), "rb") as file:
            try:
                return dumps(read_tree(file, "", release.version))
            except Problem as error:
                raise VerificationError(
                    f"release {release.version}: {error}; nothing was installed"
                ) from error

    def _stage_and_swap(self, staging: Staging, manifest: Manifest, state: State) -> bool:
        """Stage what is missing, and swap; False when the program runs and the update waits."""
        move_in = plan_staged(self._installation, manifest, state.id).move_in
        logger.info("%s: %d of %d files change", state.version, len(move_in), len(manifest.files))
        try:
            staging.fill(manifest, [(move.source, move.entry) for move in move_in])
        finally:
            if self._bar is not None:
                self._bar.end_line()
        logger.info(
            "%s is downloaded and verified, %s travelled",
            state.version,
            readable_size(staging.fetched),
        )
        return swap_or_stage(self._client_folder, self._installation, manifest, state, self._start)

    def _remember_stamp(self, state: State, stamp: str) -> None:
        """Spare the next start reading all files, if the stamp can be written."""
        if stamp and stamp != state.stamp:
            try:
                self._installation.remember(state._replace(stamp=stamp))
            except InstallError as error:
                logger.debug("%s; the next start reads every file again", error)

    def _progress(self, downloaded: int, total: int) -> None:
        if self._start.is_cancelled:
            raise UpdaterError("the program has ended; the next start goes on with the download")
        if self._callback is None or self._start.is_behind:
            return
        try:
            self._callback(downloaded, total)
        except UpdaterError:
            raise
        except Exception as error:  # the app's own code may raise anything; the program must start
            raise UpdaterError(f"progress_callback failed: {error!r}") from error


def install_staged(
    config: UpdaterConfig,
    client_folder: ClientFolder,
    installation: Installation,
    start: StartUpdate,
) -> bool:
    """Install the update that was staged, complete, while the program ran; whether it was done."""
    state, installed = installation.staged(), installation.state()
    manifest = state.tree() if state else None
    if state is None or manifest is None or installed is None:
        return False
    trust = add_staged(trusted(config, installed), state.trust)
    if trust is None:
        logger.warning("%s was staged under other keys; it waits for the server", state.version)
        return False
    state = state._replace(trust=trust)
    return swap_or_stage(client_folder, installation, manifest, state, start)


def swap_or_stage(
    client_folder: ClientFolder,
    installation: Installation,
    manifest: Manifest,
    state: State,
    start: StartUpdate,
) -> bool:
    """Swap in what is staged, complete, unless the program of this start already runs."""
    with start.swapping() as may_swap:
        if may_swap:
            return swap_staged(client_folder, installation, manifest, state)
    installation.stage(state)
    logger.info("%s will be installed at the next start", state.version)
    return False


def swap_staged(
    client_folder: ClientFolder, installation: Installation, manifest: Manifest, state: State
) -> bool:
    """Swap in what is staged, complete; False when the program runs and the update waits."""
    if client_folder.is_running(installation):
        installation.stage(state)
        logger.info("the program is running; %s will be installed at the next start", state.version)
        return False
    load_ahead()
    # Planned again: the program may have changed files since the plan for staging.
    plan = plan_staged(installation, manifest, state.id)
    installation.install(plan, state)
    logger.info(
        "%s is installed: %d files came, %d left",
        state.version,
        len(plan.move_in),
        len(plan.move_out),
    )
    return True


def plan_staged(installation: Installation, manifest: Manifest, identifier: str) -> SwapPlan:
    """The swap to the manifest's tree; a staged file has its entry's number as its name."""
    number = {entry.path: index for index, entry in enumerate(manifest.files)}
    return installation.plan_swap(
        manifest.files, identifier, lambda entry: f"{STAGING}/{number[entry.path]}"
    )


def trusted(config: UpdaterConfig, state: Optional[State]) -> TrustState:
    """The trust state of the installation under the configured keys.

    Raises:
        VerificationError: a configured key is none.
    """
    if state is None:
        return add_configured_keys(TrustState(), config.public_keys, "", "")
    return add_configured_keys(state.trust, config.public_keys, state.version, state.manifest)


def terminal_bar(config: UpdaterConfig) -> Optional[Progress]:
    """A bar for a launcher on a terminal that shows no progress itself."""
    if config.progress_callback is None and sys.stderr is not None and sys.stderr.isatty():
        return Progress("update")
    return None


def processor() -> str:
    """The processor architecture as the operating system names it."""
    if sys.platform == "win32":
        return os.environ.get("PROCESSOR_ARCHITECTURE", "")
    return os.uname().machine
