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
    1970, and the highest `minimum`. The key id is empty for a version installed before any key,
    the SHA-256 is empty where that version's manifest is not known.
    """

    key: str
    version: str
    manifest: str
    time: int
    minimum: str


class TrustState(NamedTuple):
    """The part of the state that no update and no rollback takes back.

    `keys` are the public keys last configured, `announced` those that believed manifests have
    named, both oldest first. With any key at all only signed releases are accepted, for ever.
    """

    app: str = ""
    keys: Tuple[str, ...] = ()
    records: Tuple[KeyRecord, ...] = ()
    revoked: Tuple[str, ...] = ()  # key ids
    announced: Tuple[str, ...] = ()

    def all_keys(self) -> Tuple[str, ...]:
        """Every key, by rank: a configured one comes before those that only a manifest named."""
        return self.keys + tuple(key for key in self.announced if key not in self.keys)

    def usable_keys(self) -> Tuple[str, ...]:
        """The keys that are not revoked."""
        return tuple(key for key in self.all_keys() if _key_id(key) not in self.revoked)

    def valid_records(self) -> Tuple[KeyRecord, ...]:
        """The records of keys that are not revoked."""
        return tuple(record for record in self.records if record.key not in self.revoked)

    def highest(self) -> Optional[KeyRecord]:
        """The record of the highest version that a valid key has vouched for."""
        return max(
            self.valid_records(),
            key=lambda record: (parse(record.version), bool(record.manifest)),
            default=None,
        )

    def minimum(self) -> Optional[Version]:
        """The lowest version that the developer still allows."""
        return max(
            (parse(record.minimum) for record in self.valid_records() if record.minimum),
            default=None,
        )

    def newest(self) -> int:
        """The newest signed time seen, in seconds since 1970; 0 when none was."""
        return max((record.time for record in self.valid_records()), default=0)


class VerifiedManifest(NamedTuple):
    """A manifest, its bytes, the id of the key that signed it, and the signed time.

    Key and time are empty where no signature is asked for. `trust` is the trust state after it.
    """

    manifest: Manifest
    text: bytes
    key: str
    time: int
    trust: TrustState


def add_configured_keys(
    trust: TrustState, public_keys: Sequence[str], version: str, manifest: str
) -> TrustState:
    """The trust state under the configured keys; without any, those remembered still count.

    Where keys are new, `version` and `manifest`, installed unsigned, become the first record:
    nothing goes below it. An empty `manifest` is an unknown one.

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
        records += (KeyRecord("", version, _digest(manifest.encode("utf-8")), 0, ""),)
    return trust._replace(keys=keys, records=records)


def add_staged(known: TrustState, staged: TrustState) -> Optional[TrustState]:
    """The trust state after the installation of what was staged earlier.

    None when keys were configured or revoked since then: the release must be verified again.
    """
    if known.keys != staged.keys or not set(known.revoked) <= set(staged.revoked):
        return None
    renewed = {record.key for record in staged.records}
    records = staged.records + tuple(r for r in known.records if r.key not in renewed)
    announced = staged.announced + tuple(k for k in known.announced if k not in staged.announced)
    return staged._replace(records=records, announced=announced)


def is_signed_by_known_key(signature: Optional[str], trust: TrustState) -> bool:
    """Whether a signature file names a usable key; whether the signature is right, is not asked."""
    from ..minisign import key_name, parse_signatures

    try:
        signers = {key_name(block.key_id) for block in parse_signatures(signature or "")}
    except Problem:
        return False
    return any(_key_id(key) in signers for key in trust.usable_keys())


def verify_manifest(
    text: bytes, signature: Optional[str], trust: TrustState, *, app: Optional[str], now: float
) -> VerifiedManifest:
    """The manifest in `text`, signed as it must be, with the keys that it names and revokes.

    What it says of keys counts from now on, whether or not its release may be installed.

    Args:
        signature: the .minisig text that came with it.
        app: the configured name of the program.
        now: seconds since 1970.

    Raises:
        VerificationError: it is not signed as it must be, from the future, or of another app.
        Problem: it is no manifest.
    """
    if not trust.keys:
        manifest = loads(text)
        _check_app(manifest, app or trust.app, is_signed=False)
        return VerifiedManifest(manifest, text, "", 0, trust)
    key, time, signed_app, signed_version = _verify_signature(text, signature, trust, now)
    manifest = loads(text)
    if signed_app != manifest.app or parse(signed_version) != parse(manifest.version):
        raise VerificationError(
            f"the signature is for {signed_app} {signed_version}, "
            f"the manifest for {manifest.app} {manifest.version}; nothing was installed"
        )
    _check_app(manifest, app or trust.app, is_signed=True)
    trust = _announce(trust, manifest.terms.keys)
    trust = _revoke(trust, key, manifest.terms.revoked, manifest.terms.keys)
    return VerifiedManifest(manifest, text, key, time, trust)


def accept(
    verified: VerifiedManifest, *, app: Optional[str], floor: str = "", downgrade: bool = False
) -> VerifiedManifest:
    """The manifest, if this client may install it; its `trust` is the trust state once it is.

    Args:
        app: the configured name of the program.
        floor: the lowest version that the configuration allows.
        downgrade: whether versions below the highest one seen are allowed.

    Raises:
        VerificationError: it is too old, or another release of a version that was seen.
    """
    manifest, text, key, time, trust = verified
    version = parse(manifest.version)
    if floor and version < parse(floor):
        raise VerificationError(
            f"{manifest.version} is below {floor}, the lowest version configured; "
            "nothing was installed"
        )
    if key:
        _check_order(manifest, version, text, time, trust, downgrade)
        trust = _record(trust, key, manifest, text, time)
    return verified._replace(trust=trust._replace(app=app or trust.app or manifest.app))


def current(
    text: bytes, signature: Optional[str], trust: TrustState, *, app: Optional[str], now: float
) -> TrustState:
    """The trust state after the server has proved that the installed manifest is the active one.

    Raises:
        VerificationError: the signature over the installed manifest does not hold, or is older
            than one seen.
    """
    try:
        verified = verify_manifest(text, signature, trust, app=app, now=now)
    except OtherBytes as error:
        raise VerificationError(
            "the server's release has the version that is installed here and other contents: "
            "one of the two is not the developer's; only a higher version can replace it"
        ) from error
    manifest, highest = verified.manifest, verified.trust.highest()
    if (
        highest is not None
        and parse(highest.version) == parse(manifest.version)
        and verified.time < highest.time
    ):
        raise VerificationError(
            f"the server shows a signature of {manifest.version} that is older than one seen before"
        )
    return _record(verified.trust, verified.key, manifest, text, verified.time)


def offer_timestamp(
    signature: Optional[str], version: Version, trust: TrustState, app: Optional[str] = None
) -> int:
    """The signed time of an offer of `version`, in seconds since 1970.

    0 where nothing proves it, and for a version below the highest one. The offer's manifest is not
    here yet, but the global signature covers the comment with the time, the app and the version.
    """
    from ..minisign import parse_public_key, parse_release_comment, verify_comment

    known = app or trust.app
    try:
        keys = [parse_public_key(key) for key in trust.usable_keys()]
        comment = parse_release_comment(verify_comment(keys, signature or "") or "")
        highest = trust.highest()
        is_newer = (
            (not known or comment.app == known)
            and parse(comment.version) == version
            and (highest is None or version >= parse(highest.version))
        )
    except Problem:
        return 0
    return comment.timestamp if is_newer else 0


def downgrade_floor(trust: TrustState, signature: Optional[str]) -> Optional[Version]:
    """The version below which an offer with this signature is refused anyway.

    It is the highest one vouched for by a key that the offer's own key cannot revoke.
    """
    from ..minisign import key_name, parse_signatures

    usable = {_key_id(key) for key in trust.usable_keys()}
    later: Tuple[str, ...] = ()
    try:
        signers = [key_name(block.key_id) for block in parse_signatures(signature or "")]
        later = _later_keys(trust, next((key for key in signers if key in usable), ""))
    except Problem:
        pass
    return max(
        (parse(record.version) for record in trust.valid_records() if record.key not in later),
        default=None,
    )


# --- signatures and order -----------------------------------------------------------------------


class OtherBytes(VerificationError):
    """A usable key has signed, but not these bytes."""


def _verify_signature(
    text: bytes, signature: Optional[str], trust: TrustState, now: float
) -> Tuple[str, int, str, str]:
    """The id of the key that signed `text`, and the signed time, app and version."""
    from ..minisign import UnknownKey, key_name, parse_public_key, parse_release_comment, verify

    if signature is None:
        raise VerificationError(
            "the release is not signed, and only signed ones are accepted here; "
            "nothing was installed"
        )
    try:
        proof = verify([parse_public_key(key) for key in trust.usable_keys()], text, signature)
        comment = parse_release_comment(proof.trusted_comment)
        parse(comment.version)
    except Problem as error:
        kind = VerificationError
        if is_signed_by_known_key(signature, trust) and not isinstance(error, UnknownKey):
            kind = OtherBytes
        raise kind(
            f"the release's signature does not hold: {error}; nothing was installed"
        ) from error
    if comment.timestamp > max(now, trust.newest()) + DAY_SECONDS:
        raise VerificationError(
            "the release was signed more than a day in the future; check the computer's clock"
        )
    return key_name(proof.key.key_id), comment.timestamp, comment.app, comment.version


def _check_app(manifest: Manifest, known: str, is_signed: bool) -> None:
    """Refuse another program's release; an unsigned one may leave the name out."""
    if known and known != manifest.app and (manifest.app or is_signed):
        raise VerificationError(
            f"the release is one of {manifest.app or 'an unnamed program'}, this is {known}; "
            "nothing was installed"
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
    if version != parse(highest.version) or not highest.manifest:
        return
    if _digest(text) != highest.manifest:
        raise VerificationError(
            f"there are two different releases signed as {manifest.version}; nothing was installed"
        )
    if time < highest.time:
        raise VerificationError(
            f"the signature of {manifest.version} is older than one seen before; "
            "nothing was installed"
        )


def _record(trust: TrustState, key: str, manifest: Manifest, text: bytes, time: int) -> TrustState:
    """The trust state after `key` has vouched for a manifest; versions and minimums only rise."""
    record = next((r for r in trust.records if r.key == key), KeyRecord(key, "0", "", 0, ""))
    if parse(manifest.version) >= parse(record.version):
        record = record._replace(version=manifest.version, manifest=_digest(text), time=time)
    minimum = manifest.terms.minimum
    if minimum and (not record.minimum or parse(minimum) > parse(record.minimum)):
        record = record._replace(minimum=minimum)
    return trust._replace(records=(*(r for r in trust.records if r.key != key), record))


def _digest(manifest: bytes) -> str:
    return hashlib.sha256(manifest).hexdigest() if manifest else ""


# --- keys ---------------------------------------------------------------------------------------


def _announce(trust: TrustState, keys: Sequence[str]) -> TrustState:
    """The trust state after a believed manifest has named public keys.

    A new one ranks last: whoever names a key cannot place it above those that are known.
    """
    from ..minisign import parse_public_key

    try:
        named = [str(parse_public_key(key)) for key in keys]
    except Problem as error:
        raise VerificationError(f"the manifest's keys are unusable: {error}") from error
    known = trust.all_keys()
    return trust._replace(announced=trust.announced + tuple(k for k in named if k not in known))


def _revoke(
    trust: TrustState, key: str, revoked: Sequence[str], named: Sequence[str]
) -> TrustState:
    """The trust state after `key` has revoked others: an earlier key revokes later ones.

    Never the other way round: a thief has the key that is in daily use. An id that is not known
    yet is revoked as well, or an older manifest could still name that key afterwards. With a key
    go the announced ones behind it that the manifest does not name itself: the thief may have
    announced them.
    """
    order = [_key_id(known) for known in trust.all_keys()]
    earlier = order[: order.index(key) + 1] if key in order else order
    new = {key_id for key_id in revoked if key_id not in earlier}
    first = min((order.index(key_id) for key_id in new if key_id in order), default=len(order))
    kept = {_key_id(known) for known in (*trust.keys, *named)}
    new.update(key_id for key_id in order[first:] if key_id not in kept)
    return trust._replace(revoked=tuple(sorted({*trust.revoked, *new})))


def _later_keys(trust: TrustState, key: str) -> Tuple[str, ...]:
    order = tuple(_key_id(known) for known in trust.all_keys())
    return order[order.index(key) + 1 :] if key in order else ()


def _key_id(public_key: str) -> str:
    from ..minisign import key_name, parse_public_key

    return key_name(parse_public_key(public_key).key_id)
