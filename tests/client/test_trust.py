"""The attacker owns server, CDN and network, and signs nothing.

Every test here is one of his ideas, or a rule that he ran into.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from nuitkal_mini import (
    CheckError,
    ClientUpdater,
    DownloadError,
    UpdaterConfig,
    UpdaterError,
    VerificationError,
)
from nuitkal_mini.client.install import Installation
from nuitkal_mini.client.locks import FolderLocks
from nuitkal_mini.client.policy import platform_name
from nuitkal_mini.client.trust import DAY_SECONDS
from nuitkal_mini.client.update import processor
from nuitkal_mini.manifest import Terms
from nuitkal_mini.minisign import key_name
from nuitkal_mini.signing import SecretKey, public_key

from ..trees import Tree
from .conftest import Serve
from .site import Site, package_of
from .test_updater import ONE, TWO, app_of, ran

OLD_KEY, KEY, STRANGER = (
    SecretKey(bytes([number] * 8), bytes([number] * 32)) for number in (1, 2, 3)
)
NOW = time.time()


def line(secret: SecretKey) -> str:
    return str(public_key(secret))


@pytest.fixture
def config(site: Site, tmp_path: Path) -> UpdaterConfig:
    return UpdaterConfig(
        site.url,
        tmp_path / "client",
        python=sys.executable,
        retries=0,
        lock_seconds=0.2,
        public_keys=[line(OLD_KEY), line(KEY)],
    )


@pytest.fixture
def updater(site: Site, config: UpdaterConfig) -> ClientUpdater:
    """A client with 1.0.0 installed, signed a day ago."""
    site.publish("1.0.0", ONE, secret=KEY, signed_at=NOW - DAY_SECONDS)
    updater = ClientUpdater(config)
    assert updater.update()
    return updater


def refused(updater: ClientUpdater, sentence: str) -> None:
    """The update is refused, and the program is what it was, and starts."""
    before = app_of(updater.config)
    with pytest.raises(VerificationError, match=sentence):
        updater.update()
    assert app_of(updater.config) == before
    count = len(ran(updater.config))
    assert updater.update_and_run([]) == 0 and len(ran(updater.config)) == count + 1


def test_a_signed_update_installs(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.1", TWO, secret=KEY)
    assert updater.update() and app_of(config) == TWO and updater.check() is None


@pytest.mark.parametrize("secret", [OLD_KEY, KEY], ids=["old key", "new key"])
def test_any_configured_key_will_do_so_that_keys_can_be_rotated(
    site: Site, config: UpdaterConfig, updater: ClientUpdater, secret: SecretKey
) -> None:
    site.publish("1.0.1", TWO, secret=secret)
    assert updater.update() and app_of(config) == TWO


def test_arbitrary_software_unsigned_is_refused(site: Site, updater: ClientUpdater) -> None:
    site.publish("1.0.1", TWO)
    refused(updater, "not signed")


def test_arbitrary_software_signed_by_a_stranger_is_refused(
    site: Site, updater: ClientUpdater
) -> None:
    site.publish("1.0.1", TWO, secret=STRANGER)
    refused(updater, "not among the trusted keys")


def test_a_manifest_changed_after_signing_is_refused_before_it_is_parsed(
    site: Site, updater: ClientUpdater
) -> None:
    site.publish("1.0.1", TWO, secret=KEY)
    site.files["1.0.1.json"] = b"[" * 1000  # would be another error if anybody parsed it
    refused(updater, "signature by the key")


def test_a_server_without_manifests_is_refused(site: Site, updater: ClientUpdater) -> None:
    site.publish("1.0.1", TWO, basic=True)
    refused(updater, "no manifest")


def test_rollback_to_an_older_signed_release_is_not_followed(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.1", TWO, secret=KEY)
    updater.update()
    site.publish("1.0.0", ONE, secret=KEY)
    assert updater.check() is None and not updater.update() and app_of(config) == TWO


def test_rollback_stays_refused_after_a_rollback_by_hand(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    """The highest version seen is no part of what a rollback takes back."""
    site.publish("1.0.2", TWO, secret=KEY)
    updater.update()
    assert updater.rollback() == "1.0.0"
    site.publish("1.0.1", TWO, secret=KEY)
    assert updater.check() is None and not updater.update() and app_of(config) == ONE


@pytest.mark.parametrize(
    "forged",
    [{"file_hash": ""}, {"file_hash": 64 * "0"}, {"version": "v1.0.1"}, {"version": "1.0.1+again"}],
    ids=str,
)
def test_a_rollback_is_not_undone_by_what_check_calls_the_release(
    site: Site, config: UpdaterConfig, updater: ClientUpdater, forged: Dict[str, str]
) -> None:
    site.publish("1.0.1", TWO, secret=KEY)
    updater.update()
    updater.rollback()
    site.check.update(forged)
    assert not updater.update() and app_of(config) == ONE
    site.publish("1.0.2", TWO, secret=KEY)
    assert updater.update() and app_of(config) == TWO


def test_the_installed_version_is_spelled_as_it_was_signed(
    site: Site, updater: ClientUpdater
) -> None:
    site.publish("1.0.1", TWO, secret=KEY)
    site.check["version"] = "v1.0.1+forged"
    assert updater.update() and updater.installed_version == "1.0.1"


def test_rollback_disguised_as_a_newer_version_is_refused(
    site: Site, updater: ClientUpdater
) -> None:
    """check/ says 1.0.2 and hands over the manifest, signature and package of 0.9."""
    site.publish("0.9", TWO, secret=KEY)
    site.check["version"] = "1.0.2"
    refused(updater, "lower than 1.0.0")


def test_another_version_than_check_announced_is_refused(
    site: Site, updater: ClientUpdater
) -> None:
    site.publish("1.0.1", TWO, secret=KEY)
    site.check["version"] = "1.0.2"
    refused(updater, "1.0.2 with the manifest of 1.0.1")


def test_allow_downgrade_lifts_the_highest_version_but_never_a_signed_minimum(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    config.allow_downgrade = True
    site.publish("1.5.0", TWO, secret=KEY, terms=Terms(minimum="1.4.0"))
    assert updater.update()
    site.publish("1.4.0", ONE, secret=KEY)
    assert updater.update() and app_of(config) == ONE
    site.publish("1.3.9", TWO, secret=KEY)
    refused(updater, "below 1.4.0")


def test_a_minimum_binds_the_automatic_rollback_and_not_the_one_by_hand(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    config.confirm_seconds = 5.0
    crashing: Tree = {**TWO, "main.py": (b"import sys\nsys.exit(3)\n", "644")}
    site.publish("1.5.0", crashing, secret=KEY, terms=Terms(minimum="1.5.0"))
    assert updater.update_and_run([]) == 3 and updater.installed_version == "1.5.0"
    assert updater.rollback() == "1.0.0"


def test_the_configured_floor_is_kept_on_the_first_install_too(
    site: Site, config: UpdaterConfig
) -> None:
    config.minimum_version = "2.0"
    site.publish("1.0.0", ONE, secret=KEY)
    with pytest.raises(VerificationError, match="below 2.0"):
        ClientUpdater(config).update()


def test_indefinite_freeze_is_noticed(
    site: Site, config: UpdaterConfig, updater: ClientUpdater, caplog: pytest.LogCaptureFixture
) -> None:
    config.max_age_days = 2
    assert updater.check() is None
    config.max_age_days = 0.5
    with pytest.raises(CheckError, match="days old"):
        updater.check()
    assert not updater.update() and "holding updates back" in caplog.text
    site.publish(
        "1.0.0", ONE, secret=KEY
    )  # what `publish resign` does: the same manifest, a newer signed time
    assert updater.check() is None


def test_freeze_by_replaying_an_older_signature_is_refused(
    site: Site, updater: ClientUpdater
) -> None:
    old = dict(site.check)
    site.publish("1.0.0", ONE, secret=KEY)
    assert updater.check() is None
    site.check = old
    with pytest.raises(VerificationError, match="older than one seen"):
        updater.check()
    refused(updater, "older than one seen")


def test_an_older_signature_of_the_highest_version_is_refused_on_the_way_back_to_it_too(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.1", TWO, secret=KEY)
    updater.update()
    site.publish("1.0.0", ONE, secret=KEY, signed_at=NOW - DAY_SECONDS)
    config.allow_downgrade = True
    updater.update()
    site.publish("1.0.1", TWO, secret=KEY, signed_at=NOW - DAY_SECONDS)
    refused(updater, "older than one seen before")


def test_freeze_by_an_unproven_nothing_new_is_refused(site: Site, updater: ClientUpdater) -> None:
    site.check["signature"] = None
    with pytest.raises(VerificationError, match="not signed"):
        updater.check()


def test_freeze_by_a_server_that_only_offers_old_releases_is_noticed_by_age(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("0.9", TWO, secret=KEY)
    config.max_age_days = 0.5
    with pytest.raises(CheckError, match="days old"):
        updater.check()


def test_who_was_away_for_long_is_offered_the_update_and_told_of_no_freeze(
    site: Site, config: UpdaterConfig, updater: ClientUpdater, caplog: pytest.LogCaptureFixture
) -> None:
    config.max_age_days = 0.5
    site.publish("1.0.1", TWO, secret=KEY)
    assert updater.check() is not None
    assert (
        updater.update() and updater.check() is None and "holding updates back" not in caplog.text
    )


@pytest.mark.parametrize(
    "forge",
    [
        lambda check, fresh: {**check, "version": "9.0.0"},
        lambda check, fresh: {**check, "version": "9.0.0", "signature": None},
        lambda check, fresh: {
            **check,
            "version": "9.0.0",
            "signature": check["signature"]
            .replace("timestamp:1", "timestamp:2")
            .replace("1.0.0", "9.0.0"),
        },
        lambda check, fresh: {**fresh["another"], "version": "9.0.0"},
        lambda check, fresh: fresh["lower"],
    ],
    ids=["another version's", "none", "a changed comment", "another app's", "a lower version's"],
)
def test_freeze_behind_an_offer_that_proves_no_newer_time_is_noticed(
    site: Site, config: UpdaterConfig, updater: ClientUpdater, forge: Any
) -> None:
    check, fresh = site.check, {}
    for name, version, app in (("another", "9.0.0", "another"), ("lower", "0.9.0", "app")):
        site.publish(version, TWO, secret=KEY, app=app)
        fresh[name] = site.check
    site.check = forge(check, fresh)
    config.max_age_days = 0.5
    with pytest.raises(CheckError, match="holding updates back"):
        updater.check()


def test_a_signature_from_the_future_is_refused(site: Site, updater: ClientUpdater) -> None:
    site.publish("1.0.1", TWO, secret=KEY, signed_at=NOW + 3 * DAY_SECONDS)
    refused(updater, "in the future")


def test_a_clock_years_behind_does_not_refuse_what_follows_a_signed_time(
    site: Site, config: UpdaterConfig, updater: ClientUpdater, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuitkal_mini.client.update.time.time", lambda: 0.0)
    site.publish("1.0.1", TWO, secret=KEY, signed_at=NOW - DAY_SECONDS / 2)
    assert updater.update() and app_of(config) == TWO


def test_a_release_signed_earlier_than_the_installed_one_may_be_promoted_later(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.1", TWO, secret=KEY, signed_at=NOW - 30 * DAY_SECONDS)
    assert updater.update() and app_of(config) == TWO


def test_endless_data_as_package_is_cut(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.1", {**TWO, "new": (b"n" * 100_000, "644")}, secret=KEY)
    site.check["file_size"] = 10**9
    refused(updater, "more than its files can need")


def test_endless_data_as_manifest_or_check_is_cut(
    site: Site, updater: ClientUpdater, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuitkal_mini.client.release_source.MAX_BYTES", 100)
    site.publish("1.0.1", TWO, secret=KEY)
    with pytest.raises(DownloadError):
        updater.update()
    site.check["changelog"] = "x" * 2**21
    with pytest.raises(CheckError):
        updater.update()


def test_slow_retrieval_loses(
    serve: Serve, config: UpdaterConfig, updater: ClientUpdater, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuitkal_mini.client.http_client.RATE_WINDOW_SECONDS", 0.3)

    def drip(exchange: Any) -> None:
        exchange.reply(200, b"", length=10**6)
        for _ in range(100):
            exchange.wfile.write(b"x")
            time.sleep(0.05)

    config.check_api_url = serve(drip).url
    began = time.monotonic()
    with pytest.raises(CheckError, match="slow|bytes"):
        updater.update()
    assert time.monotonic() - began < 4


def test_extraneous_files_in_the_package_are_not_installed(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.1", TWO, secret=KEY)
    package = package_of({**TWO, "evil.py": (b"import os\n", "644")})
    site.files["1.0.1.zip"] = package
    site.check["file_size"] = len(package)
    assert updater.update() and app_of(config) == TWO


@pytest.mark.parametrize("hashed", [True, False], ids=["with a fitting hash", "without"])
def test_mix_and_match_of_one_manifest_with_anothers_package_is_refused(
    site: Site, updater: ClientUpdater, hashed: bool
) -> None:
    site.publish(
        "1.0.2", {**TWO, "main.py": (b"import evil\n", "644"), "tool": (b"#!/bin/true\n", "755")}
    )
    other, hash_of_other, size = (
        site.files["1.0.2.zip"],
        site.check["file_hash"],
        site.check["file_size"],
    )
    site.publish("1.0.1", TWO, secret=KEY)
    site.files["1.0.1.zip"] = other
    site.check.update(file_hash=hash_of_other if hashed else "", file_size=size)
    refused(updater, "nothing was installed")


def test_wrong_software_of_another_app_signed_by_the_same_key_is_refused(
    site: Site, updater: ClientUpdater
) -> None:
    site.publish("1.0.1", TWO, app="another", secret=KEY)
    refused(updater, "another")


def test_wrong_software_without_a_name_is_refused_where_the_program_has_one(
    site: Site, updater: ClientUpdater
) -> None:
    site.publish("1.0.1", TWO, secret=KEY, app="")
    refused(updater, "one of an unnamed program, this is app")


def test_a_signature_whose_comment_is_of_another_release_is_refused(
    site: Site, updater: ClientUpdater
) -> None:
    """The comment is authentic, the manifest too; only together they never were."""
    from nuitkal_mini.minisign import ReleaseComment
    from nuitkal_mini.signing import release_comment_text, sign

    for comment in (
        ReleaseComment(int(NOW), "app", "1.0.2"),
        ReleaseComment(int(NOW), "another", "1.0.1"),
    ):
        site.publish("1.0.1", TWO, secret=KEY)
        site.check["signature"] = sign(KEY, site.files["1.0.1.json"], release_comment_text(comment))
        refused(updater, "the signature is for")
    for text in ("no fields", f"timestamp:{int(NOW)}\tapp:app\tversion:1.0.1\tversion:1.0.1"):
        site.check["signature"] = sign(KEY, site.files["1.0.1.json"], text)
        refused(updater, "trusted comment")


def test_two_releases_signed_as_one_version_are_refused(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish("1.0.1", TWO, secret=KEY)
    updater.update()
    site.publish("1.0.0", ONE, secret=KEY)
    config.allow_downgrade = True
    updater.update()
    site.publish("v1.0.1", {**TWO, "more": (b"", "644")}, secret=KEY)
    refused(updater, "two different releases")


def test_a_client_that_was_signed_once_stays_so_without_being_told(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    """A command line without --public-key does not lower it."""
    config.public_keys = []
    site.publish("1.0.1", TWO)
    refused(updater, "not signed")
    site.publish("1.0.1", TWO, secret=KEY)
    assert updater.update()


def test_keys_that_come_later_bind_what_was_installed_unsigned(
    site: Site, config: UpdaterConfig
) -> None:
    keys, config.public_keys = config.public_keys, []
    site.publish("1.0.1", ONE)
    updater = ClientUpdater(config)
    assert updater.update()
    config.public_keys = keys
    site.publish("1.0.0", TWO, secret=KEY)
    assert updater.check() is None and not updater.update()
    site.publish("1.0.1", TWO, secret=KEY)
    with pytest.raises(VerificationError):
        updater.check()
    site.publish("1.0.1", ONE, secret=KEY)
    assert updater.check() is None
    site.publish("1.0.2", TWO, secret=KEY)
    assert updater.update() and app_of(config) == TWO


def test_what_was_staged_unsigned_is_not_installed_once_there_are_keys(
    site: Site, config: UpdaterConfig
) -> None:
    """Nor does the memory of that time take the keys away again."""
    keys, config.public_keys = config.public_keys, []
    site.publish("1.0.0", ONE)
    updater = ClientUpdater(config)
    assert updater.update()
    site.publish("1.0.1", TWO)
    running = FolderLocks(str(config.client_dir / ".update")).lock_run()
    with running:
        assert not updater.update()
    config.public_keys = keys
    config.check_api_url = "http://127.0.0.1:9/check"
    assert updater.update_and_run([]) == 0 and ran(config) == ["one"] and app_of(config) == ONE
    config.public_keys = []
    assert updater.update_and_run([]) == 0 and ran(config) == ["one", "two"]


def test_starting_needs_no_module_after_the_swap(site: Site, config: UpdaterConfig) -> None:
    """Its file may be another one by then."""
    config.public_keys = []
    site.publish("1.0.0", ONE)
    code = (
        "import sys; from nuitkal_mini.client import install, ClientUpdater, UpdaterConfig\n"
        "real = install.Installation.install\n"
        "def swap(*arguments):\n"
        "    print('subprocess' in sys.modules and 'signal' in sys.modules)\n"
        "    return real(*arguments)\n"
        "install.Installation.install = swap\n"
        "ClientUpdater(UpdaterConfig(sys.argv[1], sys.argv[2])).update()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, site.url, str(config.client_dir)],
        stdout=subprocess.PIPE,
        check=True,
    )
    assert done.stdout.strip() == b"True"


def test_a_client_without_keys_takes_signed_and_unsigned_releases(
    site: Site, config: UpdaterConfig
) -> None:
    config.public_keys = []
    updater = ClientUpdater(config)
    site.publish("1.0.0", ONE, secret=STRANGER)
    assert updater.update()
    site.publish("1.0.1", TWO)
    assert updater.update() and app_of(config) == TWO


def test_key_compromise_recovery_an_earlier_key_revokes_a_later_one_and_what_it_raised(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    site.publish(
        "999.0.0", TWO, secret=KEY, terms=Terms(minimum="999.0.0")
    )  # the thief's, to lock everybody out
    assert updater.update()
    site.publish("1.0.1", ONE, secret=OLD_KEY)
    refused(updater, "below 999.0.0")
    site.publish("1.0.1", ONE, secret=OLD_KEY, terms=Terms(revoked=(key_name(KEY.key_id),)))
    assert updater.update() and app_of(config) == ONE
    site.publish("999.0.2", TWO, secret=KEY)
    refused(updater, "not among the trusted keys")


def test_a_later_key_cannot_revoke_an_earlier_one(site: Site, updater: ClientUpdater) -> None:
    site.publish(
        "1.0.1",
        TWO,
        secret=KEY,
        terms=Terms(revoked=(key_name(OLD_KEY.key_id), key_name(KEY.key_id))),
    )
    assert updater.update()
    site.publish("1.0.2", ONE, secret=OLD_KEY)
    assert updater.update()


@pytest.mark.parametrize(
    "terms, sentence",
    [
        (Terms(platforms=("amiga-m68k",)), "is for amiga-m68k"),
        (Terms(python=">=99"), "needs Python >=99"),
    ],
    ids=["platform", "python"],
)
def test_a_release_for_another_machine_is_refused_before_download(
    site: Site, updater: ClientUpdater, terms: Terms, sentence: str
) -> None:
    site.publish("1.0.1", TWO, secret=KEY, terms=terms)
    site.requests()
    with pytest.raises(VerificationError, match=sentence):
        updater.update()
    assert "/1.0.1.zip" not in site.requests()


def test_a_release_for_this_machine_is_accepted(site: Site, updater: ClientUpdater) -> None:
    here = platform_name(sys.platform, processor())
    site.publish(
        "1.0.1", TWO, secret=KEY, terms=Terms(python=">=3.8, <4", platforms=("amiga-*", here))
    )
    assert updater.update()


@pytest.mark.parametrize(
    "system, machine, name",
    [
        ("linux", "x86_64", "linux-x86_64"),
        ("win32", "AMD64", "windows-x86_64"),
        ("win32", "ARM64", "windows-arm64"),
        ("darwin", "arm64", "macos-arm64"),
    ],
)
def test_platforms_have_one_name(system: str, machine: str, name: str) -> None:
    assert platform_name(system, machine) == name


@pytest.mark.skipif(os.name != "posix", reason="Windows has links only for developers")
def test_nothing_is_written_where_a_linked_update_folder_leads(
    site: Site, config: UpdaterConfig, tmp_path: Path
) -> None:
    site.publish("1.0.0", ONE, secret=KEY)
    (tmp_path / "outside").mkdir()
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / ".update").symlink_to(tmp_path / "outside")
    with pytest.raises(UpdaterError, match="is not a folder"):
        ClientUpdater(config).update()
    assert not list((tmp_path / "outside").iterdir()) and not site.requests()


@pytest.mark.skipif(os.name != "posix", reason="Windows has links only for developers")
def test_a_start_alone_reads_and_writes_nothing_where_a_linked_update_folder_leads(
    config: UpdaterConfig, updater: ClientUpdater, tmp_path: Path
) -> None:
    own, outside = config.client_dir / ".update", tmp_path / "outside"
    own.rename(outside)
    own.symlink_to(outside)
    (outside / "journal.json").write_text("{}")
    before = sorted(path.name for path in outside.rglob("*"))
    assert updater.run([]) == 0 and len(ran(config)) == 1
    assert sorted(path.name for path in outside.rglob("*")) == before


def test_an_unusable_configured_key_says_so(site: Site, config: UpdaterConfig) -> None:
    config.public_keys = ["nonsense"]
    site.publish("1.0.0", ONE, secret=KEY)
    with pytest.raises(VerificationError, match="public key"):
        ClientUpdater(config).update()


def test_a_state_that_was_restored_from_its_copy_still_knows_its_keys(
    site: Site, config: UpdaterConfig, updater: ClientUpdater
) -> None:
    (config.client_dir / "local_version.json").unlink()
    config.public_keys = []
    site.publish("1.0.1", TWO)
    refused(updater, "not signed")
    state = Installation(str(config.client_dir), "local_version.json").state()
    assert state is not None and state.trust.keys


def flips(data: bytes, step: int) -> Iterator[bytes]:
    for bit in range(0, 8 * len(data), step):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)


@pytest.mark.parametrize(
    "step", [97, pytest.param(1, marks=pytest.mark.slow)], ids=["sample", "every bit"]
)
def test_no_flipped_bit_of_anything_served_installs_another_program(
    site: Site, config: UpdaterConfig, updater: ClientUpdater, step: int
) -> None:
    logging.getLogger("nuitkal_mini").setLevel(logging.CRITICAL)
    two: Tree = {"main.py": TWO["main.py"], "link": "main.py", "data": (b"data" * 10, "755")}
    site.publish("1.0.1", two, secret=KEY)
    served = {**site.files, "check": json.dumps(site.check).encode()}
    original = site._answer
    count = 0

    def answer(exchange: Any) -> None:
        if exchange.path.startswith("/check"):
            exchange.reply(200, served["check"])
        else:
            original(exchange)

    site.origin.answer = answer
    for name in ("check", "1.0.1.json", "1.0.1.zip"):
        good = served[name]
        for bad in flips(good, step):
            served[name] = site.files[name] = bad
            try:
                installed = updater.update()
            except UpdaterError:
                installed = False
            count += 1
            assert app_of(config) == (two if installed else ONE)
            # a bit of the changelog, of a time in the ZIP, of the untrusted comment: nothing that
            # decides
            if installed:
                updater.rollback()
                state_file = config.client_dir / "local_version.json"
                state_file.write_text(
                    json.dumps({**json.loads(state_file.read_text()), "rolled_back": None})
                )
        served[name] = site.files[name] = good
    assert count > 100
    logging.getLogger("nuitkal_mini").setLevel(logging.NOTSET)
