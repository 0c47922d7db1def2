"""What a client believes: every decision about signatures and keys, without I/O.

With public keys nothing that decides comes from an unsigned byte. The manifest's signature is
checked before the manifest is parsed; its trusted comment must name the manifest's own app and
version; version and signed time never go back. The trust state outlives updates and rollbacks: a
client whose first install was signed stays a signed one, of the same app. The attacks that this
answers are those of The Update Framework (theupdateframework.io, "Security").
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple, Optional, Sequence, Tuple

from ..manifest import Manifest, loads
from ..problem import Problem
from ..semver import Version, parse
from .errors import VerificationError

DAY_SECONDS = 86400


class KeyRecord(NamedTuple):
    """What one key has vouched for on this client.

    Its highest version with the manifest's SHA-256 and the newest signed time in seconds since
    1970, and the highest `minimum`. The key id is empty for a version installed before any key.
    """

    key: str
    version: str
    manifest: str
    time: int
    minimum: str


class TrustState(NamedTuple):
    """The part of the state that no update and no rollback takes back.

    `keys` are public keys, oldest first; with any at all only signed releases are accepted, for
    ever.
    """

    app: str = ""
    keys: Tuple[str, ...] = ()
    records: Tuple[KeyRecord, ...] = ()
    revoked: Tuple[str, ...] = ()  # key ids

    def usable_keys(self) -> Tuple[str, ...]:
        """The keys that are not revoked."""
        return tuple(key for key in self.keys if _key_id(key) not in self.revoked)

    def valid_records(self) -> Tuple[KeyRecord, ...]:
        """The records of keys that are not revoked."""
        return tuple(record for record in self.records if record.key not in self.revoked)

    def highest(self) -> Optional[KeyRecord]:
        """The record of the highest version that a valid key has vouched for."""
        return max(self.valid_records(), key=lambda record: parse(record.version), default=None)

    def minimum(self) -> Optional[Version]:
        """The lowest version that the developer still allows."""
        return max(
            (parse(record.minimum) for record in self.valid_records() if record.minimum),
            default=None,
        )

    def newest(self) -> int:
        """The newest signed time seen, in seconds since 1970; 0 when none was."""
        return max((record.time for record in self.valid_records()), default=0)


class Accepted(NamedTuple):
    """A manifest that may be installed, its bytes, and the trust state once it is."""

    manifest: Manifest
    text: bytes
    trust: TrustState


def add_configured_keys(
    trust: TrustState, public_keys: Sequence[str], version: str, manifest: str
) -> TrustState:
    """The trust state under the configured keys; without any, those remembered still count.

    Where keys are new, `version` and `manifest`, installed unsigned, become the first record:
    nothing goes below it.

    Raises:
        VerificationError: a configured key is none.
    """
    from ..minisign import parse_public_key

    try:
        keys = tuple(str(parse_public_key(key)) for key in public_keys)
    except Problem as error:
        raise VerificationError(f"a configured public key is unusable: {error}") from error
    if not keys:
        return trust
    records = trust.records
    if version and not trust.keys:
        digest = hashlib.sha256(manifest.encode("utf-8")).hexdigest()
        records += (KeyRecord("", version, digest, 0, ""),)
    return trust._replace(keys=keys, records=records)


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
        VerificationError: it is not signed as it must be, or of another app, too old, or from the
        future.
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
            f"the release is one of {manifest.app or 'an unnamed program'}, this is {known}; "
            "nothing was installed"
        )
    if floor and version < parse(floor):
        raise VerificationError(
            f"{manifest.version} is below {floor}, the lowest version configured; "
            "nothing was installed"
        )
    if key:
        # Revocations first: the versions that a thief's key has raised must not keep the remedy
        # out.
        trust = _revoke(trust, key, manifest.terms.revoked)
        _check_order(manifest, version, text, time, trust, downgrade)
        trust = _record(trust, key, manifest, text, time)
    return Accepted(manifest, text, trust._replace(app=known or manifest.app))


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
            "the release is not signed, and only signed ones are accepted here; "
            "nothing was installed"
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
    """Refuse a trusted comment, verified already, that is not of the manifest it came with."""
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
            f"the signature is for {comment.app} {comment.version}, "
            f"the manifest for {app} {version.text}; nothing was installed"
        )


def _check_order(
    manifest: Manifest, version: Version, text: bytes, time: int, trust: TrustState, downgrade: bool
) -> None:
    minimum = trust.minimum()
    if minimum is not None and version < minimum:
        raise VerificationError(
            f"{manifest.version} is below {minimum.text}, "
            "the lowest version that the developer still allows; nothing was installed"
        )
    highest = trust.highest()
    if highest is None:
        return
    if version < parse(highest.version) and not downgrade:
        raise VerificationError(
            f"{manifest.version} is lower than {highest.version}, which was installed here before; "
            "nothing was installed"
        )
    if version == parse(highest.version) and hashlib.sha256(text).hexdigest() != highest.manifest:
        raise VerificationError(
            f"there are two different releases signed as {manifest.version}; nothing was installed"
        )
    if version == parse(highest.version) and time < highest.time:
        raise VerificationError(
            f"the signature of {manifest.version} is older than one seen before; "
            "nothing was installed"
        )


def _record(trust: TrustState, key: str, manifest: Manifest, text: bytes, time: int) -> TrustState:
    """The trust state after `key` has vouched for this manifest.

    Versions and minimums only rise.
    """
    record = next((r for r in trust.records if r.key == key), KeyRecord(key, "0", "", 0, ""))
    if parse(manifest.version) >= parse(record.version):
        record = record._replace(
            version=manifest.version, manifest=hashlib.sha256(text).hexdigest(), time=time
        )
    minimum = manifest.terms.minimum
    if minimum and (not record.minimum or parse(minimum) > parse(record.minimum)):
        record = record._replace(minimum=minimum)
    return trust._replace(records=(*(r for r in trust.records if r.key != key), record))


def _revoke(trust: TrustState, key: str, revoked: Tuple[str, ...]) -> TrustState:
    """The trust state after `key` has revoked others: an earlier key revokes later ones.

    Never the other way round: a thief has the key that is in daily use.
    """
    later = _later_keys(trust, key)
    new = {key_id for key_id in revoked if key_id in later}
    return trust._replace(revoked=tuple(sorted({*trust.revoked, *new})))


def _later_keys(trust: TrustState, key: str) -> Tuple[str, ...]:
    order = tuple(_key_id(known) for known in trust.keys)
    return order[order.index(key) + 1 :] if key in order else ()


def downgrade_floor(trust: TrustState, signature: Optional[str]) -> Optional[Version]:
    """The version below which an offer with this signature is refused anyway.

    It is the highest one vouched for by a key that the offer's own key cannot revoke.
    """
    from ..minisign import key_name, parse_signature

    try:
        later = _later_keys(trust, key_name(parse_signature(signature or "").key_id))
    except Problem:
        later = ()
    return max(
        (parse(record.version) for record in trust.valid_records() if record.key not in later),
        default=None,
    )


def current(text: bytes, signature: Optional[str], trust: TrustState, now: float) -> TrustState:
    """The trust state after the server has proved that the installed manifest is the active one.

    Raises:
        VerificationError: the signature over the installed manifest does not hold, or is older than
        one seen.
    """
    key, time = verified(text, signature, trust, now)
    manifest = loads(text)
    check_comment(signature or "", manifest.app, parse(manifest.version))
    highest = trust.highest()
    if highest is not None and highest.version == manifest.version and time < highest.time:
        raise VerificationError(
            f"the server shows a signature of {manifest.version} that is older than one seen before"
        )
    return _record(trust, key, manifest, text, time)


def offer_timestamp(signature: Optional[str], version: Version, trust: TrustState) -> int:
    """The signed time of an offer of `version`, in seconds since 1970.

    0 where nothing proves it, and for a version below the highest one.

    Its manifest is not here yet, but the global signature covers the comment with the time, the app
    and the version.
    """
    from ..minisign import parse_public_key, parse_release_comment, verify_comment

    try:
        comment = parse_release_comment(
            verify_comment([parse_public_key(key) for key in trust.usable_keys()], signature or "")
            or ""
        )
        highest = trust.highest()
        is_newer = (
            comment.app == trust.app
            and parse(comment.version) == version
            and (highest is None or version >= parse(highest.version))
        )
    except Problem:
        return 0
    return comment.timestamp if is_newer else 0


def _key_id(public_key: str) -> str:
    from ..minisign import key_name, parse_public_key

    return key_name(parse_public_key(public_key).key_id)
