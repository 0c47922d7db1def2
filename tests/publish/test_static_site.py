"""A static site in a folder: what is in it, what refuses, and what an interrupted run leaves."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from nuitkal_mini.manifest import loads
from nuitkal_mini.minisign import parse_public_key, verify
from nuitkal_mini.publish import static_site
from nuitkal_mini.publish.static_site import API, STABLE, activate, make_deltas, promote, releases
from nuitkal_mini.publish.tree import PublishError, read_tree
from nuitkal_mini.semver import parse
from nuitkal_mini.zip_read import open_member, read_directory

from .test_commands import run


def publish(site: Path, folder: Path, version: str, channel: str = STABLE, **options: Any) -> str:
    app = options.pop("app", "app")
    return static_site.publish(site, channel, read_tree(folder, app, version), **options)


def document(site: Path, name: str = "check.json") -> Dict[str, Any]:
    found: Dict[str, Any] = json.loads((site / API / name).read_bytes())
    return found


def image(site: Path) -> Dict[str, bytes]:
    return {
        path.relative_to(site).as_posix(): path.read_bytes()
        for path in site.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def site(program: Path, tmp_path: Path) -> Path:
    """1.0.0 is active, 1.1.0 with one more file is not."""
    publish(tmp_path / "site", program, "1.0.0", now=1767225600)
    (program / "more.txt").write_text("more")
    publish(tmp_path / "site", program, "1.1.0", is_active=False, changelog="More.")
    return tmp_path / "site"


def test_both_forms_of_check_name_files_that_are_there(site: Path) -> None:
    for name in ("check.json", "check/index.html"):
        shown = document(site, name)
        assert (shown["version"], shown["is_active"]) == ("1.0.0", True)
        assert shown["upload_time"] == "2026-01-01T00:00:00Z"
        for key in ("download_url", "manifest_url"):
            assert "2026/01/update_1.0.0" in shown[key]
            assert ((site / API / name).parent / shown[key]).resolve().is_file()
        assert shown["deltas"] == [] == shown["rotations"]


def big_release(site: Path, program: Path, version: str, channel: str = STABLE) -> None:
    """A release of which the next one differs by a few bytes in 200 kB."""
    noise = hashlib.shake_128(b"noise").digest(200_000)
    (program / "noise.bin").write_bytes(noise[:100_000] + version.encode() + noise[100_000:])
    publish(site, program, version, channel)


def test_deltas_lead_from_the_last_releases_to_the_active_one(site: Path, program: Path) -> None:
    for version in ("2.0.0", "2.1.0", "2.2.0"):
        big_release(site, program, version)
    assert make_deltas(site, STABLE, 2) == 2 and make_deltas(site, STABLE, 2) == 0
    for name in ("check.json", "check/index.html"):
        deltas = document(site, name)["deltas"]
        assert [delta["from"] for delta in deltas] == ["2.1.0", "2.0.0"]
        for delta in deltas:
            content = ((site / API / name).parent / delta["url"]).resolve().read_bytes()
            assert len(content) == delta["size"] < 2000
            assert hashlib.sha256(content).hexdigest() == delta["hash"]
    activate(site, STABLE, parse("2.1.0"))
    assert document(site)["deltas"] == []
    # From 1.1.0 nearly everything is new: such a delta is not kept.
    assert make_deltas(site, STABLE, 9) == 2
    assert [delta["from"] for delta in document(site)["deltas"]] == ["2.2.0", "2.0.0"]
    assert not list(site.rglob(".*.part"))


def test_no_delta_leads_from_another_channels_release_of_the_same_version(
    site: Path, program: Path
) -> None:
    big_release(site, program, "2.0.0")
    big_release(site, program, "2.1.0")
    (program / "main.py").write_text("print('another 2.0.0')\n")
    big_release(site, program, "2.0.0", "beta")
    promote(site, "beta", parse("2.1.0"), STABLE, True)
    assert make_deltas(site, STABLE, 1) == 1 and make_deltas(site, "beta", 1) == 0
    activate(site, "beta", parse("2.1.0"))
    assert document(site, "channels/beta/check.json")["deltas"] == []


def test_a_damaged_package_is_named_and_leaves_no_delta(site: Path, program: Path) -> None:
    big_release(site, program, "2.0.0")
    big_release(site, program, "2.1.0")
    (package,) = site.rglob("update_2.0.0.zip")
    package.write_bytes(package.read_bytes()[:1000])
    with pytest.raises(PublishError, match="no delta from 2.0.0"):
        make_deltas(site, STABLE, 1)
    assert not list(site.rglob("*.delta")) + list(site.rglob(".*.part"))


def test_new_contents_come_last_in_the_package(site: Path) -> None:
    (newest,) = [item for item in releases(site, STABLE) if item.version == "1.1.0"]
    with open((site / API / newest.download_url).resolve(), "rb") as package:
        directory = read_directory(package)
        last = max(directory.members, key=lambda member: member.offset)
        assert last.path == "more.txt" and b"".join(open_member(package, last)) == b"more"


def test_activate_moves_check_and_keeps_every_package(site: Path) -> None:
    before = image(site)
    assert activate(site, STABLE, parse("v1.1")) == "1.1.0"
    assert document(site)["changelog"] == "More."
    assert [(item.version, item.is_active) for item in releases(site, STABLE)] == [
        ("1.1.0", True),
        ("1.0.0", False),
    ]
    changed = {path for path, data in image(site).items() if before.get(path) != data}
    assert changed == {
        f"{API}/{name}" for name in ("check.json", "check/index.html", "versions.json")
    }


def test_promote_shares_the_files_of_the_other_channel(site: Path) -> None:
    before = set(image(site))
    assert promote(site, "beta", parse("1.1.0"), STABLE, True) == "1.1.0"
    shown = document(site, "channels/beta/check/index.html")
    assert (site / API / "channels/beta/check" / shown["download_url"]).resolve().is_file()
    assert set(image(site)) - before == {
        f"{API}/channels/beta/{name}"
        for name in ("check.json", "check/index.html", "versions.json")
    }
    with pytest.raises(PublishError, match="is in beta already"):
        promote(site, "beta", parse("1.1.0"), STABLE, True)


def test_the_same_content_again_changes_nothing(site: Path, program: Path) -> None:
    before = image(site)
    assert "nothing to write" in publish(site, program, "1.1.0")
    assert image(site) == before


@pytest.mark.parametrize(
    "options,sentence",
    [
        ({"version": "1.0.0"}, "with other content"),
        ({"version": "v1.0"}, "with other content"),
        ({"version": "2.0.0", "app": "other"}, "holds releases of app, not of other"),
        ({"version": "2.0.0", "channel": "../x"}, "is not a channel"),
        ({"version": "2.0.0", "channel": "Beta"}, "is not a channel"),
    ],
    ids=str,
)
def test_refused(site: Path, program: Path, options: Dict[str, str], sentence: str) -> None:
    before = image(site)
    with pytest.raises(PublishError, match=sentence):
        publish(site, program, **options)
    assert image(site) == before


def test_versions_that_differ_in_case_or_sign_have_files_of_their_own(
    tmp_path: Path, program: Path
) -> None:
    site = tmp_path / "site"
    versions = ["1.0.0-RC", "1.0.0-rc", "1.0.0-b", "1.0.1+b"]
    for version in versions:
        publish(site, program, version)
    urls = {item.manifest_url.casefold() for item in releases(site, STABLE)}
    assert len(urls) == len(versions) and not any("+" in url for url in urls)
    for item in releases(site, STABLE):
        manifest = (site / API / item.manifest_url).resolve().read_bytes()
        assert loads(manifest).version == item.version


DAMAGE = [
    b"",
    b"[]",
    b"{}",
    b'{"versions": [1]}',
    b'{"versions": [{}]}',
    b'{"versions": {"a": 1}}',
    b"\xff",
    b"[" * 100_000,
]


@pytest.mark.parametrize("data", DAMAGE, ids=lambda data: repr(data[:20]))
def test_a_damaged_list_is_refused_and_kept(site: Path, program: Path, data: bytes) -> None:
    (site / API / "versions.json").write_bytes(data)
    with pytest.raises(PublishError, match=r"versions\.json cannot be read"):
        publish(site, program, "3.0.0")
    assert (site / API / "versions.json").read_bytes() == data


def test_a_list_that_points_outside_the_site_is_refused(site: Path, program: Path) -> None:
    path = site / API / "versions.json"
    path.write_bytes(path.read_bytes().replace(b"../../media/", b"../../../secret/"))
    with pytest.raises(PublishError, match="lies outside of media"):
        publish(site, program, "3.0.0")


def test_a_list_that_another_run_changed_meanwhile_is_not_overwritten(
    site: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = static_site.write_package

    def slow(tree: Any, out: Any) -> None:
        plain(tree, out)
        monkeypatch.setattr(static_site, "write_package", plain)
        (program / "meanwhile").write_text("x")
        publish(site, program, "5.0.0")

    monkeypatch.setattr(static_site, "write_package", slow)
    with pytest.raises(PublishError, match="run the command again"):
        publish(site, program, "4.0.0")
    assert [item.version for item in releases(site, STABLE)][0] == "5.0.0"


def operations(monkeypatch: pytest.MonkeyPatch, stop_at: int) -> List[str]:
    """From operation `stop_at` on, the disk of the site takes nothing more."""
    done: List[str] = []
    for name in ("replace", "fsync"):
        real = getattr(os, name)

        def counted(*args: Any, _real: Any = real, _name: str = name) -> Any:
            if len(done) >= stop_at:
                raise OSError(28, "No space left on device")
            done.append(_name)
            return _real(*args)

        monkeypatch.setattr(static_site.os, name, counted)
    return done


def crashes() -> Iterator[int]:
    yield from range(40)


def test_interrupted_anywhere_the_site_is_whole_and_the_next_run_finishes(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = 0
    for stop_at in crashes():
        site = tmp_path / f"site{stop_at}"
        (program / "more.txt").write_text("first")
        publish(site, program, "1.0.0")
        (program / "more.txt").write_text("second")
        with monkeypatch.context() as patch:
            done = operations(patch, stop_at)
            try:
                publish(site, program, "1.1.0")
            except OSError:
                tried += 1
        for name in ("check.json", "check/index.html"):
            shown = document(site, name)
            folder = (site / API / name).parent
            assert shown["version"] in ("1.0.0", "1.1.0")
            assert loads((folder / shown["manifest_url"]).read_bytes()).version == shown["version"]
            assert (folder / shown["download_url"]).is_file()
        publish(site, program, "1.1.0")
        assert document(site)["version"] == document(site, "check/index.html")["version"] == "1.1.0"
        assert not [path for path in image(site) if path.endswith(".part")]
        if len(done) < stop_at:
            break
    assert tried > 10


def test_the_command_line(tmp_path: Path, program: Path) -> None:
    key, site = tmp_path / "app.key", tmp_path / "site"
    assert run("keygen", key).returncode == 0
    words = ("static", site, program, "--app", "app", "--key", key, "--version")
    done = run(*words, "1.0.0", "--changelog", "First.")
    assert done.returncode == 0 and done.stdout.startswith("published 1.0.0 in stable"), done.stderr
    (program / "more.txt").write_text("more")
    assert run(*words, "1.1.0", "--inactive").returncode == 0
    assert run("static", site, "list").stdout.splitlines()[1].endswith("active")
    assert run("static", site, "activate", "1.1.0").stdout == "1.1.0 is active in stable\n"
    moved = run("static", site, "promote", "1.0.0", "--from", "stable", "--channel", "beta")
    assert moved.stdout == "promoted 1.0.0 from stable to beta\n"
    shown = document(site)
    public = parse_public_key(Path(f"{key}.pub").read_text().splitlines()[1])
    verify([public], (site / API / shown["manifest_url"]).read_bytes(), shown["signature"])
    for wrong in (["activate"], ["promote", "1.0.0"], [program], [program, "--app", "app"]):
        assert run("static", site, *wrong).returncode == 2
    assert run("static", site, "activate", "9.9.9").stderr.startswith(
        "error: stable has no release"
    )
