"""Whether the client may go to the release that the server offers: direction, age, requirements.

Pure decisions over the configuration, the installed state and the offer; `trust.py` decides about
signatures and keys.
"""

from __future__ import annotations

from typing import Optional, Tuple

from ..manifest import Manifest, Terms, python_fits
from ..paths import fold
from ..semver import Version, parse
from .errors import VerificationError
from .release import Release
from .state import State
from .trust import DAY_SECONDS, TrustState, downgrade_floor, offer_timestamp


def lowest_allowed(
    release: Release, state: State, trust: TrustState, allow_downgrade: Optional[bool]
) -> Optional[Version]:
    """The lowest version that the client may go to now; None when it follows the server down."""
    if allow_downgrade is True or (allow_downgrade is None and not trust.keys):
        return None
    return downgrade_floor(trust, release.signature) if trust.keys else parse(state.version)


def was_rolled_back(state: State, release: Release, is_signed: bool) -> bool:
    """Whether a rollback keeps this release away.

    For signed releases one version is one tree, whatever check/ says of its package.
    """
    return (
        state.rolled_back is not None
        and parse(state.rolled_back.version) == release.precedence
        and (is_signed or state.rolled_back.package == release.file_hash)
    )


def freeze_warning(
    release: Release,
    trust: TrustState,
    max_age_days: Optional[float],
    app: Optional[str],
    now: float,
) -> str:
    """The sentence that says how old the newest signature is; empty while that is allowed.

    The offer's own signature counts. Where keys are configured and no signature was ever seen,
    nothing is known of the age, which is not allowed either.
    """
    if max_age_days is None or not trust.keys:
        return ""
    newest = trust.newest()
    if now - newest > max_age_days * DAY_SECONDS:
        offered = offer_timestamp(release.signature, release.precedence, trust, app)
        newest = max(newest, offered)
    if now - newest <= max_age_days * DAY_SECONDS:
        return ""
    age = f"the newest signature here is {(now - newest) / DAY_SECONDS:.0f} days old"
    if not newest:
        age = "no valid signature was ever seen here"
    return f"{age}, {max_age_days:g} days are allowed; somebody may be holding updates back"


def check_offer(manifest: Manifest, release: Release, version_file: str) -> None:
    """Refuse a manifest that is not the offered release's, or that the client cannot install.

    Raises:
        VerificationError: nothing was installed.
    """
    if not manifest.files:
        raise VerificationError(f"release {release.version} has no files; nothing was installed")
    if parse(manifest.version) != release.precedence:
        raise VerificationError(
            f"the server offers {release.version} with the manifest of {manifest.version}; "
            "nothing was installed"
        )
    if any(fold(entry.path).split("/")[0] == fold(version_file) for entry in manifest.files):
        raise VerificationError(
            f"the release brings {version_file}, which is the updater's own; nothing was installed"
        )


def check_main(manifest: Manifest, main_script: str) -> None:
    """Refuse a release without the program to start; `main_script` counts if it names none itself.

    Raises:
        VerificationError: nothing was installed.
    """
    main = manifest.main or main_script.replace("\\", "/")
    if main.startswith("/") or ":" in main or ".." in main.split("/"):
        return  # a program outside of the release
    main = fold("/".join(part for part in main.split("/") if part not in ("", ".")))
    for entry in manifest.files:
        path = fold(entry.path)
        if path == main or (entry.link is not None and main.startswith(path + "/")):
            return
    raise VerificationError(
        f"release {manifest.version} has no {manifest.main or main_script}, "
        "the program to start; nothing was installed"
    )


def check_requirements(terms: Terms, python: Tuple[int, ...], platform: str) -> None:
    """Refuse a release for another Python or platform, before anything of it is downloaded.

    Raises:
        VerificationError: with a sentence that names what the release asks for.
    """
    from fnmatch import fnmatchcase

    if terms.platforms and not any(fnmatchcase(platform, pattern) for pattern in terms.platforms):
        raise VerificationError(
            f"the release is for {', '.join(terms.platforms)}, this computer is {platform}; "
            "nothing was installed"
        )
    if not python_fits(terms.python, python):
        running = ".".join(map(str, python))
        raise VerificationError(
            f"the release needs Python {terms.python}, this is {running}; nothing was installed"
        )


def platform_name(system: str, machine: str) -> str:
    """The name that `requires.platform` matches: `linux-x86_64`, `windows-arm64`, `macos-arm64`."""
    systems = {"win32": "windows", "cygwin": "windows", "darwin": "macos"}
    machine = machine.lower()
    return f"{systems.get(system, system)}-{'x86_64' if machine == 'amd64' else machine}"
