"""Decisions about trust as pure calls.

Signed bytes and a trust state in, a trust state or a refusal out.
"""

from __future__ import annotations

import time
from typing import Optional, Tuple

import pytest

from nuitkal_mini import VerificationError
from nuitkal_mini.client import trust as decisions
from nuitkal_mini.client.trust import TrustState, VerifiedManifest, verify_manifest
from nuitkal_mini.manifest import Manifest, Terms, dumps
from nuitkal_mini.minisign import key_name
from nuitkal_mini.signing import sign

from .test_trust import KEY, OLD_KEY, line

NOW = time.time()


def offer(
    secret: object, version: str, at: int, terms: Optional[Terms] = None, named: str = ""
) -> Tuple[bytes, str]:
    """A manifest and its signature, made at `at`; `named` is the version in the signed comment."""
    text = dumps(Manifest("a", version, (), terms or Terms()))
    comment = f"timestamp:{at}\tapp:a\tversion:{named or version}"
    return text, sign(secret, text, comment)  # type: ignore[arg-type]


def accept(
    text: bytes, signature: str, trust: TrustState, *, app: str, now: float
) -> VerifiedManifest:
    return decisions.accept(verify_manifest(text, signature, trust, app=app, now=now), app=app)


def test_the_record_of_one_key_does_not_replace_that_of_another() -> None:
    trust = TrustState("a", (line(OLD_KEY), line(KEY)))
    trust = accept(*offer(OLD_KEY, "1.0.0", 1), trust, app="a", now=NOW).trust
    trust = accept(*offer(KEY, "99.0.0", 2), trust, app="a", now=NOW).trust
    old, new = key_name(OLD_KEY.key_id), key_name(KEY.key_id)
    assert [(record.key, record.version) for record in trust.records] == [
        (old, "1.0.0"),
        (new, "99.0.0"),
    ]
    repaired = accept(*offer(OLD_KEY, "1.0.1", 3, Terms(revoked=(new,))), trust, app="a", now=NOW)
    highest = repaired.trust.highest()
    assert repaired.manifest.version == "1.0.1"
    assert highest is not None and highest.version == "1.0.1"


def test_a_proof_whose_comment_names_another_release_is_refused() -> None:
    trust = TrustState("a", (line(KEY),))
    with pytest.raises(VerificationError, match="the signature is for"):
        decisions.current(*offer(KEY, "1.0.0", 5, named="2.0.0"), trust, app="a", now=NOW)


def test_a_proof_of_a_lower_version_keeps_the_highest_one() -> None:
    trust = TrustState("a", (line(KEY),))
    trust = accept(*offer(KEY, "2.0.0", 50), trust, app="a", now=NOW).trust
    proved = decisions.current(*offer(KEY, "1.0.0", 5), trust, app="a", now=NOW).highest()
    assert proved is not None and proved.version == "2.0.0"


def test_the_installed_release_is_accepted_again_and_changes_nothing() -> None:
    trust = TrustState("a", (line(KEY),))
    release = offer(KEY, "1.0.0", 5)
    trust = accept(*release, trust, app="a", now=NOW).trust
    assert accept(*release, trust, app="a", now=NOW).trust == trust


@pytest.mark.parametrize("named", ["none", "v", "1.0.0 1.0.0", "1.0.0\tversion:1.0.0", "1.0.0.0.0"])
def test_a_signed_comment_without_one_valid_version_is_refused(named: str) -> None:
    with pytest.raises(VerificationError):
        accept(
            *offer(KEY, "1.0.0", 1, named=named), TrustState("a", (line(KEY),)), app="a", now=NOW
        )


@pytest.mark.parametrize("field", ["timestamp", "app", "version"])
@pytest.mark.parametrize("times", [0, 2], ids=["missing", "twice"])
def test_each_field_of_the_signed_comment_stands_in_it_exactly_once(field: str, times: int) -> None:
    text = dumps(Manifest("a", "1.0.0", ()))
    fields = {"timestamp": "timestamp:1", "app": "app:a", "version": "version:1.0.0"}
    words = [word for name, word in fields.items() for _ in range(times if name == field else 1)]
    with pytest.raises(VerificationError):
        accept(
            text, sign(KEY, text, "\t".join(words)), TrustState("a", (line(KEY),)), app="a", now=NOW
        )
