"""What a client believes: every security decision about a release, from bytes and a memory, without I/O.

With public keys nothing that decides comes from an unsigned byte. The manifest's signature is checked before the manifest
is parsed; its trusted comment must name the manifest's own app and version; version and signed time never go back. The
memory outlives updates and rollbacks: a client whose first install was signed stays a signed one, of the same app.
The attacks this answers are those of The Update Framework (theupdateframework.io, "Security").
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple, Optional, Sequence, Tuple

from ..manifest import Manifest, Terms, loads, python_fits
from ..problem import Problem
from ..semver import Version, parse
from .errors import VerificationError

DAY_SECONDS = 86400


class KeyRecord(NamedTuple):
    """What one key has vouched for here: its highest version with the manifest's SHA-256 and the newest signed time, and its `minimum`."""

    key: str
    version: str
    manifest: str
    time: int
    minimum: str


class TrustState(NamedTuple):
    """The memory: `keys` are public keys, oldest first; any at all mean that only signed releases are accepted, for ever."""

    app: str = ""
    keys: Tuple[str, ...] = ()
    marks: Tuple[KeyRecord, ...] = ()
    revoked: Tuple[str, ...] = ()  # key ids

    def usable_keys(self) -> Tuple[str, ...]:
        """The keys that nobody has revoked."""
        return tuple(key for key in self.keys if _key_id(key) not in self.revoked)

    def valid_marks(self) -> Tuple[KeyRecord, ...]:
        """What was vouched for by keys that nobody has revoked."""
        return tuple(mark for mark in self.marks if mark.key not in self.revoked)

    def highest(self) -> Optional[KeyRecord]:
        """The mark of the highest version that a valid key has brought here."""
        return max(self.valid_marks(), key=lambda mark: parse(mark.version), default=None)

    def minimum(self) -> Optional[Version]:
        """The lowest version that the developer still allows."""
        return max(
            (parse(mark.minimum) for mark in self.valid_marks() if mark.minimum), default=None
        )

    def newest(self) -> int:
        """The newest signed time seen, in seconds since 1970; 0 when none was."""
        return max((mark.time for mark in self.valid_marks()), default=0)


class Accepted(NamedTuple):
    """A manifest that may be installed, and the memory once it is."""

    manifest: Manifest
    trust: TrustState


def add_configured_keys(
    trust: TrustState, public_keys: Sequence[str], version: str, manifest: str
) -> TrustState:
    """The memory under the configured keys; without any, those remembered still count.

    Where keys are new, `version` and `manifest`, installed unsigned, are the first that nothing goes below.

    Raises:
        VerificationError: a configured key is none.
    """
    from ..minisign import parse_public_key

    try:
        keys = tuple(str(parse_public_key(key)) for key in public_keys)
    except Problem as error:
        raise VerificationError(f"a configured public key is unusable: {error}") from error
    first = (
        (KeyRecord("", version, hashlib.sha256(manifest.encode("utf-8")).hexdigest(), 0, ""),)
        if keys and version and not trust.keys
        else ()
    )
    return trust._replace(keys=keys or trust.keys, marks=trust.marks + first)


def check_requirements(terms: Terms, python: Tuple[int, ...], platform: str) -> None:
    """Refuse a release for another Python or platform, before anything of it is downloaded.

    Raises:
        VerificationError: with a sentence that names what it asks for.
    """
    from fnmatch import fnmatchcase

    if terms.platforms and not any(fnmatchcase(platform, pattern) for pattern in terms.platforms):
        raise VerificationError(
            f"the release is for {', '.join(terms.platforms)}, this computer is {platform}; nothing was installed"
        )
    if not python_fits(terms.python, python):
        running = ".".join(map(str, python))
        raise VerificationError(
            f"the release needs Python {terms.python}, this is {running}; nothing was installed"
        )


def platform_name(system: str, machine: str) -> str:
    """`linux-x86_64`, `windows-arm64`, `macos-arm64`…: what `requires.platform` names."""
    systems = {"win32": "windows", "cygwin": "windows", "darwin": "macos"}
    machine = machine.lower()
    return f"{systems.get(system, system)}-{'x86_64' if machine == 'amd64' else machine}"


def accept(
    text: bytes,
    signature: Optional[str],
    trust: TrustState,
    *,
    app: Optional[str],
    now: float,
    floor: str = "",
    downgrade: bool = False,
) -> Accepted:
    """The manifest in `text`, if this client may install it.

    Args:
        signature: the .minisig text that came with it.
        app: the configured name of the program.
        now: seconds since 1970.
        floor: the lowest version that the configuration allows.
        downgrade: whether versions below the highest one seen are welcome.

    Raises:
        VerificationError: it is not signed as it must be, or of another app, too old, or from the future.
        Problem: it is no manifest.
    """
    key, time = verified(text, signature, trust, now) if trust.keys else ("", 0)
    manifest = loads(text)
    version = parse(manifest.version)
    if key:
        check_comment(signature or "", manifest.app, version)
    known = app or trust.app
    if known and known != manifest.app and (manifest.app or key):
        raise VerificationError(
            f"the release is one of {manifest.app or 'an unnamed program'}, this is {known}; nothing was installed"
        )
    if floor and version < parse(floor):
        raise VerificationError(
            f"{manifest.version} is below {floor}, the lowest version configured; nothing was installed"
        )
    if key:
        trust = _revoked(
            trust, key, manifest.terms.revoked
        )  # first: what a thief's key has raised must not keep the remedy out
        _check_order(manifest, version, text, time, trust, downgrade)
        trust = _marked(trust, key, manifest, text, time)
    return Accepted(manifest, trust._replace(app=known or manifest.app))


def verified(
    text: bytes, signature: Optional[str], trust: TrustState, now: float
) -> Tuple[str, int]:
    """The id of the key that signed `text`, and the signed time.

    Raises:
        VerificationError: no usable key did, or the time lies more than a day ahead.
    """
    from ..minisign import key_name, parse_public_key, parse_release_comment, verify

    if signature is None:
        raise VerificationError(
            "the release is not signed, and only signed ones are accepted here; nothing was installed"
        )
    try:
        proof = verify([parse_public_key(key) for key in trust.usable_keys()], text, signature)
        comment = parse_release_comment(proof.trusted_comment)
    except Problem as error:
        raise VerificationError(
            f"the release's signature does not hold: {error}; nothing was installed"
        ) from error
    if comment.timestamp > max(now, trust.newest()) + DAY_SECONDS:
        raise VerificationError(
            "the release was signed more than a day in the future; check the computer's clock"
        )
    return key_name(proof.key.key_id), comment.timestamp


def check_comment(signature: str, app: str, version: Version) -> None:
    """The trusted comment must speak of the manifest that it came with; it is authentic already."""
    from ..minisign import parse_release_comment, parse_signature

    try:
        comment = parse_release_comment(parse_signature(signature).trusted_comment)
        agrees = comment.app == app and parse(comment.version) == version
    except Problem as error:
        raise VerificationError(
            f"the release's signature does not hold: {error}; nothing was installed"
        ) from error
    if not agrees:
        raise VerificationError(
            f"the signature is for {comment.app} {comment.version}, the manifest for {app} {version.text}; nothing was installed"
        )


def _check_order(
    manifest: Manifest, version: Version, text: bytes, time: int, trust: TrustState, downgrade: bool
) -> None:
    minimum = trust.minimum()
    if minimum is not None and version < minimum:
        raise VerificationError(
            f"{manifest.version} is below {minimum.text}, the lowest version that the developer still allows; nothing was installed"
        )
    highest = trust.highest()
    if highest is None:
        return
    if version < parse(highest.version) and not downgrade:
        raise VerificationError(
            f"{manifest.version} is lower than {highest.version}, which was installed here before; nothing was installed"
        )
    if version == parse(highest.version) and hashlib.sha256(text).hexdigest() != highest.manifest:
        raise VerificationError(
            f"there are two different releases signed as {manifest.version}; nothing was installed"
        )
    if version == parse(highest.version) and time < highest.time:
        raise VerificationError(
            f"the signature of {manifest.version} is older than one seen before; nothing was installed"
        )


def _marked(trust: TrustState, key: str, manifest: Manifest, text: bytes, time: int) -> TrustState:
    """The memory after this manifest: versions and minimums only rise."""
    before = next((mark for mark in trust.marks if mark.key == key), KeyRecord(key, "0", "", 0, ""))
    mark = before
    if parse(manifest.version) >= parse(before.version):
        mark = before._replace(
            version=manifest.version, manifest=hashlib.sha256(text).hexdigest(), time=time
        )
    if manifest.terms.minimum and (
        not mark.minimum or parse(manifest.terms.minimum) > parse(mark.minimum)
    ):
        mark = mark._replace(minimum=manifest.terms.minimum)
    return trust._replace(marks=(*(other for other in trust.marks if other.key != key), mark))


def _revoked(trust: TrustState, key: str, revoked: Tuple[str, ...]) -> TrustState:
    """An earlier key revokes later ones, never the other way round: the thief has the one in daily use."""
    return trust._replace(
        revoked=tuple(
            sorted({*trust.revoked, *(bad for bad in revoked if bad in _later_keys(trust, key))})
        )
    )


def _later_keys(trust: TrustState, key: str) -> Tuple[str, ...]:
    order = tuple(_key_id(known) for known in trust.keys)
    return order[order.index(key) + 1 :] if key in order else ()


def downgrade_floor(trust: TrustState, signature: Optional[str]) -> Optional[Version]:
    """The version below which an offer with this signature is not worth a look: what its key cannot revoke has gone higher."""
    from ..minisign import key_name, parse_signature

    try:
        later = _later_keys(trust, key_name(parse_signature(signature or "").key_id))
    except Problem:
        later = ()
    return max(
        (parse(mark.version) for mark in trust.valid_marks() if mark.key not in later), default=None
    )


def current(text: bytes, signature: Optional[str], trust: TrustState, now: float) -> TrustState:
    """The memory after the server called the installed manifest the active one; it must have proof of that.

    Raises:
        VerificationError: the signature over the installed manifest does not hold, or is older than one seen.
    """
    key, time = verified(text, signature, trust, now)
    manifest = loads(text)
    check_comment(signature or "", manifest.app, parse(manifest.version))
    highest = trust.highest()
    if highest is not None and highest.version == manifest.version and time < highest.time:
        raise VerificationError(
            f"the server shows a signature of {manifest.version} that is older than one seen before"
        )
    return _marked(trust, key, manifest, text, time)


def offer_timestamp(signature: Optional[str], version: Version, trust: TrustState) -> int:
    """When the offer of a version that is not below the highest one was signed, in seconds since 1970; 0 where nothing proves it.

    Its manifest is not here yet, but the global signature covers the comment with the time, the app and the version.
    """
    from ..minisign import parse_public_key, parse_release_comment, verify_comment

    try:
        comment = parse_release_comment(
            verify_comment([parse_public_key(key) for key in trust.usable_keys()], signature or "")
            or ""
        )
        highest = trust.highest()
        is_news = (
            comment.app == trust.app
            and parse(comment.version) == version
            and (highest is None or version >= parse(highest.version))
        )
    except Problem:
        return 0
    return comment.timestamp if is_news else 0


def _key_id(public_key: str) -> str:
    from ..minisign import key_name, parse_public_key

    return key_name(parse_public_key(public_key).key_id)
