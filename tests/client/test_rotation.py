"""Keys change: announced by a manifest, walked after a long sleep, revoked for good."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Sequence

import pytest

from nuitkal_mini import CheckError, ClientUpdater, UpdaterConfig, VerificationError
from nuitkal_mini.client.install import Installation
from nuitkal_mini.client.release_source import MAX_ROTATIONS
from nuitkal_mini.client.trust import DAY_SECONDS, TrustState, verify_manifest
from nuitkal_mini.manifest import Manifest, Terms, dumps
from nuitkal_mini.minisign import key_name
from nuitkal_mini.signing import SecretKey, sign

from .site import Site
from .test_trust import KEY, NOW, OLD_KEY, line
from .test_updater import ONE, TWO, app_of

NEW_KEY, NEWEST_KEY, THIEF = (
    SecretKey(bytes([number] * 8), bytes([number] * 32)) for number in (4, 5, 6)
)


def name_of(secret: SecretKey) -> str:
    return key_name(secret.key_id)


def vouch(
    trust: TrustState,
    secret: SecretKey,
    version: str = "1.0.0",
    keys: Sequence[SecretKey] = (),
    revoked: Sequence[SecretKey] = (),
) -> TrustState:
    """The trust state after a manifest signed by `secret` that names and revokes keys."""
    terms = Terms(keys=tuple(map(line, keys)), revoked=tuple(map(name_of, revoked)))
    text = dumps(Manifest("a", version, (), terms))
    signature = sign(secret, text, f"timestamp:1\tapp:a\tversion:{version}")
    return verify_manifest(text, signature, trust, app="a", now=NOW).trust


def is_believed(trust: TrustState, secret: SecretKey) -> bool:
    try:
        vouch(trust, secret)
    except VerificationError:
        return False
    return True


@pytest.fixture
def config(site: Site, tmp_path: Path) -> UpdaterConfig:
    return UpdaterConfig(
        site.url,
        tmp_path / "client",
        retries=0,
        lock_seconds=0.2,
        app="app",
        public_keys=[line(OLD_KEY)],
    )


@pytest.fixture
def updater(site: Site, config: UpdaterConfig) -> ClientUpdater:
    """A client with 1.0.0 installed, which knows OLD_KEY."""
    site.publish("1.0.0", ONE, secret=OLD_KEY, signed_at=NOW - DAY_SECONDS)
    updater = ClientUpdater(config)
    assert updater.update()
    return updater


def rotate(site: Site, version: str, secret: SecretKey, *keys: SecretKey) -> None:
    """Publish a release that names keys, and put it on the chain that `check/` names."""
    known = site.check.get("rotations", [])
    site.publish(version, ONE, secret=secret, terms=Terms(keys=tuple(map(line, keys))))
    site.files[f"{version}.json.minisig"] = site.check["signature"].encode()
    site.rotations = [*known, f"{version}.json"]
    site.check["rotations"] = site.rotations


class TestAnnouncedKeys:
    def test_are_believed_from_then_on_beside_the_configured_ones(
        self,
        site: Site,
        config: UpdaterConfig,
        updater: ClientUpdater,
    ) -> None:
        rotate(site, "1.0.1", OLD_KEY, OLD_KEY, NEW_KEY)
        assert updater.update()
        site.publish("1.0.2", TWO, secret=NEW_KEY)
        assert updater.update() and app_of(config) == TWO and updater.check() is None
        site.publish("1.0.3", ONE, secret=OLD_KEY)
        assert updater.update() and app_of(config) == ONE

    def test_of_a_chain_that_was_slept_through_are_walked(
        self,
        site: Site,
        config: UpdaterConfig,
        updater: ClientUpdater,
    ) -> None:
        rotate(site, "1.0.1", OLD_KEY, OLD_KEY, KEY)
        rotate(site, "1.0.2", KEY, OLD_KEY, KEY, NEW_KEY)
        rotate(site, "1.0.3", NEW_KEY, NEWEST_KEY)
        chain = site.rotations
        site.publish("2.0.0", TWO, secret=NEWEST_KEY)
        with pytest.raises(VerificationError, match="not among the trusted keys"):
            updater.update()
        site.check["rotations"] = chain
        site.requests()
        assert updater.check() is not None
        assert len(site.requests()) == 1 + 2 * 3
        assert updater.update() and app_of(config) == TWO
        site.requests()
        assert updater.check() is None and len(site.requests()) == 1, "what is known is not walked"

    def test_of_a_chain_that_strangers_signed_are_not_believed(
        self,
        site: Site,
        config: UpdaterConfig,
        updater: ClientUpdater,
    ) -> None:
        rotate(site, "1.0.1", THIEF, THIEF)
        chain = site.rotations
        site.publish("2.0.0", TWO, secret=THIEF)
        site.check["rotations"] = chain
        with pytest.raises(VerificationError, match="not among the trusted keys"):
            updater.update()
        assert app_of(config) == ONE

    def test_of_a_chain_without_end_are_not_fetched(
        self,
        site: Site,
        updater: ClientUpdater,
    ) -> None:
        site.publish("2.0.0", TWO, secret=THIEF)
        site.check["rotations"] = ["1.0.0.json"] * (MAX_ROTATIONS + 1)
        site.requests()
        with pytest.raises(VerificationError, match="changes of keys"):
            updater.update()
        assert len(site.requests()) == 1

    def test_survive_a_new_launcher_that_configures_other_keys(
        self,
        site: Site,
        config: UpdaterConfig,
        updater: ClientUpdater,
    ) -> None:
        rotate(site, "1.0.1", OLD_KEY, OLD_KEY, NEW_KEY)
        assert updater.update()
        config.public_keys = [line(NEWEST_KEY)]
        for number, secret in enumerate([NEW_KEY, NEWEST_KEY], 2):
            site.publish(f"1.0.{number}", TWO, secret=secret)
            assert updater.update()

    def test_are_nothing_to_a_client_without_keys(
        self,
        site: Site,
        config: UpdaterConfig,
    ) -> None:
        config.public_keys = []
        rotate(site, "1.0.0", OLD_KEY, NEW_KEY)
        assert ClientUpdater(config).update()
        site.publish("1.0.1", TWO)
        assert ClientUpdater(config).update()

    def test_rank_behind_all_that_are_known(self) -> None:
        trust = vouch(TrustState("a", (line(OLD_KEY), line(KEY))), KEY, keys=(THIEF, OLD_KEY, KEY))
        trust = vouch(trust, THIEF, revoked=(OLD_KEY, KEY))
        assert is_believed(trust, OLD_KEY) and is_believed(trust, KEY)


class TestRevokedKeys:
    def test_take_the_keys_that_they_announced_with_them(self) -> None:
        trust = vouch(TrustState("a", (line(OLD_KEY), line(KEY))), KEY, keys=(NEW_KEY, THIEF))
        assert is_believed(trust, THIEF)
        trust = vouch(trust, OLD_KEY, revoked=(KEY,), keys=(NEW_KEY,))
        believed = [is_believed(trust, key) for key in (OLD_KEY, KEY, NEW_KEY, THIEF)]
        assert believed == [True, False, True, False]

    def test_are_not_announced_again_by_an_older_manifest(self) -> None:
        trust = vouch(TrustState("a", (line(OLD_KEY),)), OLD_KEY, revoked=(KEY,))
        assert not is_believed(vouch(trust, OLD_KEY, keys=(KEY,)), KEY)

    def test_stay_revoked_when_they_are_configured_again(self) -> None:
        trust = vouch(TrustState("a", (line(OLD_KEY), line(KEY))), OLD_KEY, revoked=(KEY,))
        assert not is_believed(trust._replace(keys=(line(KEY), line(OLD_KEY))), KEY)

    def test_are_remembered_although_the_release_cannot_be_installed(
        self,
        site: Site,
        config: UpdaterConfig,
        updater: ClientUpdater,
    ) -> None:
        config.public_keys = [line(OLD_KEY), line(KEY)]
        terms = Terms(revoked=(name_of(KEY),), platforms=("amiga-68000",))
        site.publish("1.0.1", TWO, secret=OLD_KEY, terms=terms)
        with pytest.raises(VerificationError, match="amiga"):
            updater.update()
        site.publish("1.0.2", TWO, secret=KEY)
        with pytest.raises(VerificationError, match="not among the trusted keys"):
            ClientUpdater(config).update()
        assert app_of(config) == ONE


@pytest.mark.parametrize("known", [OLD_KEY, NEW_KEY], ids=["first signature", "second signature"])
def test_one_of_several_signatures_is_enough(
    site: Site,
    config: UpdaterConfig,
    known: SecretKey,
) -> None:
    config.public_keys = [line(known)]
    site.publish("1.0.0", ONE, secret=OLD_KEY)
    first = site.check["signature"]
    site.publish("1.0.0", ONE, secret=NEW_KEY)
    site.check["signature"] = first + site.check["signature"]
    updater = ClientUpdater(config)
    assert updater.update() and updater.check() is None


class TestKeysThatCameLater:
    @pytest.fixture
    def migrated(self, config: UpdaterConfig) -> ClientUpdater:
        """A folder as the original client left it: the tree of 1.0.0, and only a version."""
        config.client_dir.mkdir()
        for path, item in ONE.items():
            target = config.client_dir / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(item, str):
                target.symlink_to(item)
            else:
                target.write_bytes(item[0])
                target.chmod(int(item[1], 8))
        (config.client_dir / "local_version.json").write_text('{"version": "1.0.0"}')
        return ClientUpdater(config)

    @pytest.mark.parametrize("adopts", [False, True], ids=["update", "adopt first"])
    def test_accept_the_installed_version_by_its_signature(
        self,
        site: Site,
        config: UpdaterConfig,
        migrated: ClientUpdater,
        adopts: bool,
    ) -> None:
        site.publish("1.0.0", ONE, secret=OLD_KEY)
        if adopts:
            assert migrated.adopt() == "1.0.0"
        migrated.update()
        state = Installation(str(config.client_dir), "local_version.json").state()
        assert state is not None and state.manifest.encode() == site.files["1.0.0.json"]
        assert app_of(config) == ONE and migrated.check() is None and migrated.verify() == []
        site.publish("1.0.1", TWO, secret=OLD_KEY)
        assert migrated.update() and app_of(config) == TWO

    def test_refuse_the_installed_version_without_a_signature(
        self,
        site: Site,
        migrated: ClientUpdater,
    ) -> None:
        site.publish("1.0.0", TWO, secret=THIEF)
        for call in (migrated.check, migrated.update):
            with pytest.raises(VerificationError, match="no valid signature of 1.0.0"):
                call()

    def test_do_not_go_below_the_installed_version(
        self,
        site: Site,
        config: UpdaterConfig,
        migrated: ClientUpdater,
    ) -> None:
        site.publish("0.9.0", TWO, secret=OLD_KEY)
        assert not migrated.update() and app_of(config) == ONE

    def test_do_not_take_the_absence_of_signatures_for_freshness(
        self,
        site: Site,
        config: UpdaterConfig,
        migrated: ClientUpdater,
    ) -> None:
        config.max_age_days = 10
        site.publish("0.9.0", TWO)
        with pytest.raises(CheckError, match="no valid signature was ever seen"):
            migrated.check()
        site.publish("1.0.1", TWO, secret=OLD_KEY, signed_at=time.time())
        assert migrated.check() is not None


def test_a_first_install_is_offered_a_fresh_signature_without_a_warning(
    site: Site,
    config: UpdaterConfig,
) -> None:
    config.max_age_days = 10
    site.publish("1.0.0", ONE, secret=OLD_KEY)
    assert ClientUpdater(config).check() is not None
    site.publish("1.0.0", ONE, secret=OLD_KEY, signed_at=NOW - 11 * DAY_SECONDS)
    with pytest.raises(CheckError, match="11 days old"):
        ClientUpdater(config).check()


def test_another_release_of_the_installed_version_is_called_that(
    site: Site,
    config: UpdaterConfig,
) -> None:
    config.public_keys = [line(OLD_KEY), line(KEY)]
    updater = ClientUpdater(config)
    site.publish("99.0.0", ONE, secret=KEY)
    assert updater.update()
    site.publish("99.0.0", TWO, secret=OLD_KEY, terms=Terms(revoked=(name_of(KEY),)))
    with pytest.raises(VerificationError, match="only a higher version can replace it"):
        updater.update()


def test_the_version_file_holds_the_announced_keys(
    site: Site,
    config: UpdaterConfig,
    updater: ClientUpdater,
) -> None:
    rotate(site, "1.0.1", OLD_KEY, NEW_KEY)
    assert updater.update()
    trust = json.loads((config.client_dir / "local_version.json").read_text())["trust"]
    assert trust["keys"] == [line(OLD_KEY)] and trust["announced"] == [line(NEW_KEY)]
