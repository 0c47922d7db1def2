"""Updates over a delta: two requests, and every failure of it ends at the package."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest

from nuitkal_mini import ClientUpdater, DownloadError, UpdaterConfig
from nuitkal_mini.client.release import parse_release
from nuitkal_mini.delta.write import Release, write_delta
from nuitkal_mini.signing import SecretKey, public_key, public_key_text

from ..delta.programs import library, program
from ..trees import Tree, here, read_tree
from .site import Site
from .test_updater import OURS

TEXT = b"".join(b"line %d\n" % (number * 7919 % 1000) for number in range(4000))
NOISE = random.Random(1).getrandbits(8 * 200_000).to_bytes(200_000, "little")  # fills the package
ONE: Tree = here(
    {
        "main.py": (b"print(1)\n", "644"),
        "lib.so": (library("old"), "755"),
        "tool.exe": (program(60), "755"),
        "text": (TEXT, "644"),
        "noise": (NOISE, "644"),
    }
)
TWO: Tree = here(
    {
        "main.py": (b"print(2)\n", "644"),
        "lib.so": (library("new"), "755"),
        "tool.exe": (program(60, (10,)), "755"),
        "text": (TEXT[:9000] + b"a new line\n" + TEXT[9000:], "644"),
        "noise": (NOISE, "644"),
        "moved": (TEXT[:50], "644"),
    }
)


@pytest.fixture
def config(site: Site, tmp_path: Path) -> UpdaterConfig:
    return UpdaterConfig(check_api_url=site.url, client_dir=tmp_path / "client", retries=0)


def update(config: UpdaterConfig) -> bool:
    with ClientUpdater(config) as updater:
        return updater.update()


def contents(tree: Tree) -> Any:
    return lambda entry: tree[entry.path][0]


def publish_with_delta(site: Site, **options: Any) -> bytes:
    """1.0.1 after 1.0.0, with the delta between them; its bytes."""
    site.publish("1.0.1", TWO, **options)
    delta = b"".join(
        write_delta(
            Release(site.files["1.0.0.json"], contents(ONE)),
            Release(site.files["1.0.1.json"], contents(TWO)),
        )
    )
    offer(site, delta)
    return delta


def offer(site: Site, delta: bytes, **changed: Any) -> None:
    site.files["1.0.1.delta"] = delta
    described: Dict[str, Any] = {
        "from": "1.0.0",
        "url": "1.0.1.delta",
        "size": len(delta),
        "hash": hashlib.sha256(delta).hexdigest(),
    }
    site.check["deltas"] = [{**described, **changed}]


@pytest.fixture
def installed(site: Site, config: UpdaterConfig) -> Site:
    site.publish("1.0.0", ONE)
    assert update(config)
    site.requests()
    return site


def folder(config: UpdaterConfig) -> Path:
    return Path(config.client_dir)


def asked(site: Site) -> List[str]:
    return [path.split("?")[0] for path in site.requests()]


def test_an_update_over_a_delta_is_two_requests(installed: Site, config: UpdaterConfig) -> None:
    delta = publish_with_delta(installed)
    assert update(config)
    assert asked(installed) == ["/check", "/1.0.1.delta"]
    assert read_tree(folder(config), without=OURS) == TWO
    assert len(delta) < 8000 and not (folder(config) / ".update" / "download").exists()


def install_signed(site: Site, config: UpdaterConfig) -> SecretKey:
    """Install 1.0.0 on a client with a key; the key that signs."""
    secret = SecretKey(bytes(8), bytes(range(32)))
    config.public_keys = (public_key_text(public_key(secret)).splitlines()[-1],)
    site.publish("1.0.0", ONE, secret=secret)
    assert update(config)
    return secret


def test_a_signed_release_is_verified_by_the_signature_of_check(
    site: Site, config: UpdaterConfig
) -> None:
    secret = install_signed(site, config)
    publish_with_delta(site, secret=secret)
    site.requests()
    assert update(config)
    assert asked(site) == ["/check", "/1.0.1.delta"]
    assert read_tree(folder(config), without=OURS) == TWO


def test_a_delta_with_another_manifest_than_the_signed_one_is_not_believed(
    site: Site, config: UpdaterConfig
) -> None:
    secret = install_signed(site, config)
    site.publish("1.0.1", TWO, secret=secret)
    forged = site.files["1.0.1.json"].replace(b'"644"', b'"755"')
    assert forged != site.files["1.0.1.json"]
    releases = Release(site.files["1.0.0.json"], contents(ONE)), Release(forged, contents(TWO))
    offer(site, b"".join(write_delta(*releases)))
    site.requests()
    assert update(config)
    assert asked(site)[:3] == ["/check", "/1.0.1.delta", "/1.0.1.json"]
    assert read_tree(folder(config), without=OURS) == TWO


def test_an_edited_file_alone_comes_out_of_the_package(
    installed: Site, config: UpdaterConfig, caplog: pytest.LogCaptureFixture
) -> None:
    publish_with_delta(installed)
    (folder(config) / "lib.so").write_bytes(b"edited")
    with caplog.at_level(logging.WARNING):
        assert update(config)
    requests = asked(installed)
    assert requests[:2] == ["/check", "/1.0.1.delta"] and "/1.0.1.zip" in requests
    assert "'lib.so' was changed here" in caplog.text and "tool.exe" not in caplog.text
    assert read_tree(folder(config), without=OURS) == TWO


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda delta: delta[:-100] + bytes(100), id="damaged"),
        pytest.param(lambda delta: delta[:-100], id="cut off"),
        pytest.param(lambda delta: b"<html>" + delta[6:], id="another file"),
    ],
)
@pytest.mark.parametrize("is_announced", [True, False])
def test_a_delta_that_does_not_work_ends_at_the_package(
    installed: Site, config: UpdaterConfig, damage: Any, is_announced: bool
) -> None:
    delta = publish_with_delta(installed)
    if is_announced:  # the server itself has made a bad one
        offer(installed, damage(delta))
    else:
        installed.files["1.0.1.delta"] = damage(delta)
    assert update(config)
    requests = asked(installed)
    assert requests[:2] == ["/check", "/1.0.1.delta"] and "/1.0.1.zip" in requests
    assert read_tree(folder(config), without=OURS) == TWO


def test_a_delta_that_is_gone_ends_at_the_package(installed: Site, config: UpdaterConfig) -> None:
    publish_with_delta(installed)
    del installed.files["1.0.1.delta"]
    assert update(config)
    assert read_tree(folder(config), without=OURS) == TWO


@pytest.mark.parametrize(
    "changed",
    [{"from": "0.9.0"}, {"size": 10**8}, {"hash": "no hash"}, {"url": ""}, {"from": 5}],
    ids=str,
)
def test_a_delta_of_no_use_is_not_asked_for(
    installed: Site, config: UpdaterConfig, changed: Dict[str, Any]
) -> None:
    offer(installed, publish_with_delta(installed), **changed)
    assert update(config)
    assert "/1.0.1.delta" not in asked(installed)
    assert read_tree(folder(config), without=OURS) == TWO


def test_what_one_update_has_staged_the_next_does_not_fetch_again(
    installed: Site, config: UpdaterConfig
) -> None:
    """A delta that fails for one file leaves the others staged, even when the package is away."""
    publish_with_delta(installed)
    (folder(config) / "text").write_bytes(b"edited")
    package = installed.files.pop("1.0.1.zip")
    with pytest.raises(DownloadError, match="no such file"):
        update(config)
    staged = folder(config) / ".update" / "staging"
    assert len(list(staged.iterdir())) >= 4
    installed.files["1.0.1.zip"] = package
    assert update(config)
    assert read_tree(folder(config), without=OURS) == TWO


@pytest.mark.parametrize("deltas", [None, {}, [None, 1, []], [{}], "x", [{"from": "1"}] * 500])
def test_deltas_that_say_nothing_are_left_out(deltas: object) -> None:
    document = {"version": "2", "download_url": "p.zip", "file_hash": "0" * 64}
    body = json.dumps({**document, "manifest_url": "m.json", "deltas": deltas}).encode()
    assert parse_release(body, "http://host/check/").deltas == ()


def test_the_address_of_a_delta_may_be_relative() -> None:
    described = {"from": "1", "url": "a/d.delta", "size": 5, "hash": "A" * 64}
    document = {"version": "2", "download_url": "p.zip", "file_hash": "0" * 64}
    body = json.dumps({**document, "manifest_url": "m.json", "deltas": [described]}).encode()
    (parsed,) = parse_release(body, "http://host/check/").deltas
    assert parsed == ("1", "http://host/check/a/d.delta", 5, "a" * 64)


def test_no_code_for_deltas_is_loaded_before_there_is_one(
    installed: Site, config: UpdaterConfig
) -> None:
    script = (
        "import sys; from nuitkal_mini import ClientUpdater, DownloadError, UpdaterConfig\n"
        f"ClientUpdater(UpdaterConfig(check_api_url={installed.url!r}, "
        f"client_dir={str(config.client_dir)!r})).update()\n"
        "print([name for name in sys.modules if 'delta.' in name])"
    )
    root = str(Path(__file__).resolve().parents[2])
    shown = subprocess.run([sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE)
    assert shown.stdout.strip() == b"[]"
