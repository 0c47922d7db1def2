"""From a manifest to verified files; how the bytes travel is test_updater's matter."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Callable, List, Optional

import pytest

from nuitkal_mini.client.errors import InstallError, VerificationError
from nuitkal_mini.client.install import STAGING, Installation
from nuitkal_mini.client.staging import Package, Staging
from nuitkal_mini.entries import FileEntry
from nuitkal_mini.manifest import Manifest, dumps

from ..trees import Tree, here, manifest_of, write_tree
from .site import package_of
from .sweep import FIRST, SECOND, Shop, Unsynced, update

TREE = here({"a": (b"first", "644"), "b": (b"second", "755"), "c": "a"})
ALL = [str(index) for index in range(len(TREE))]


class CountingShop(Shop):
    """A shop that knows how often it was asked."""

    def __init__(self, package: bytes) -> None:
        super().__init__(package)
        self.asked = 0

    def download(
        self,
        url: str,
        path: Path,
        size: Optional[int],
        progress: Callable[[int, int], None],
        *,
        max_bytes: int,
    ) -> None:
        self.asked += 1
        super().download(url, path, size, progress, max_bytes=max_bytes)


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    (tmp_path / ".update").mkdir()
    return Installation(str(tmp_path), "local_version.json", disk=Unsynced())


def stage(
    installation: Installation,
    tree: Tree,
    shop: Shop,
    sha256: str = "",
    manifest: Optional[Manifest] = None,
) -> None:
    manifest = manifest or manifest_of(tree)
    staging = Staging(installation, shop, Package("http://shop/p.zip", sha256, 0), lambda *_: None)  # type: ignore[arg-type]
    staging.open(dumps(manifest))
    staging.fill(
        manifest, [(f"{STAGING}/{index}", entry) for index, entry in enumerate(manifest.files)]
    )


def staged(installation: Installation) -> List[str]:
    return sorted(set(os.listdir(installation.at(STAGING))) - {"manifest.json"})


def test_everything_wanted_is_staged_under_its_number(installation: Installation) -> None:
    stage(installation, TREE, Shop(package_of(TREE)))
    assert staged(installation) == ALL and not os.path.exists(installation.at(".update/download"))
    assert all(
        installation.holds(f"{STAGING}/{index}", entry)
        for index, entry in enumerate(manifest_of(TREE).files)
    )


def test_what_is_staged_already_is_not_fetched_again_but_made_durable(
    installation: Installation,
) -> None:
    class Syncing(Unsynced):
        def perform(self, operation: str, path: str, call: Callable[..., Any], *args: Any) -> Any:
            if operation == "fsync":
                synced.append(os.path.basename(path))
            return super().perform(operation, path, call, *args)

    synced: List[str] = []
    shop = CountingShop(package_of(TREE))
    stage(installation, TREE, shop)
    again = Installation(installation.folder, "local_version.json", disk=Syncing())
    stage(again, TREE, shop)
    assert shop.asked == 1 and synced == ["0", "1"]
    Path(installation.at(STAGING + "/1")).write_bytes(b"secons")
    stage(again, TREE, shop)
    assert shop.asked == 2 and installation.holds(STAGING + "/1", manifest_of(TREE).files[1])


@pytest.mark.skipif(os.name != "posix", reason="Windows has no modes")
def test_a_file_whose_writer_was_killed_before_its_chmod_gets_its_mode(
    installation: Installation,
) -> None:
    stage(installation, TREE, Shop(package_of(TREE)))
    os.chmod(installation.at(STAGING + "/0"), 0o600)
    stage(installation, TREE, CountingShop(b""))
    assert os.stat(installation.at(STAGING + "/0")).st_mode & 0o777 == 0o644


def test_another_manifest_begins_with_an_empty_folder(installation: Installation) -> None:
    stage(installation, TREE, Shop(package_of(TREE)))
    other: Tree = {"x": (b"x", "644")}
    stage(installation, other, Shop(package_of(other)))
    assert staged(installation) == ["0"]


def test_contents_that_are_installed_under_any_name_or_mode_are_copied(
    installation: Installation,
) -> None:
    update(installation, TREE, "1", FIRST)
    moved: Tree = {"d/a": (b"first", "755"), "b": (b"second", "755")}
    shop = CountingShop(b"")
    stage(installation, moved, shop)
    assert shop.asked == 0 and staged(installation) == ["0", "1"]


def test_contents_that_are_no_longer_as_installed_are_fetched(installation: Installation) -> None:
    update(installation, TREE, "1", FIRST)
    write_tree(Path(installation.folder), {"a": (b"edited", "644")})
    shop = CountingShop(package_of({"d": (b"first", "644")}))
    stage(installation, {"d": (b"first", "644")}, shop)
    assert shop.asked == 1


def test_an_executable_bit_that_was_lost_costs_no_download(installation: Installation) -> None:
    update(installation, TREE, "1", FIRST)
    os.chmod(installation.at("b"), 0o644)
    shop = CountingShop(b"")
    stage(installation, TREE, shop)
    assert shop.asked == 0 and staged(installation) == ALL


def test_contents_in_the_backup_are_copied(installation: Installation) -> None:
    update(installation, TREE, "1", FIRST)
    update(installation, {"z": (b"z", "644")}, "2", SECOND)
    stage(installation, TREE, CountingShop(b"no zip at all"))
    assert staged(installation) == ALL


@pytest.mark.parametrize(
    "package, sentence",
    [
        pytest.param(
            {"a": (b"FIRST", "644"), "b": (b"second", "755"), "c": "a"},
            "a: SHA-256 is .*, the manifest says",
            id="other contents",
        ),
        pytest.param(
            {"a": (b"first and more", "644"), "b": (b"second", "755"), "c": "a"},
            "a: SHA-256 is",
            id="longer",
        ),
        pytest.param(
            {"b": (b"second", "755"), "c": "a"}, "lacks a; nothing", id="a file is missing"
        ),
        pytest.param(
            {"a": "b", "b": (b"second", "755"), "c": "a"},
            "lacks a; nothing",
            id="a link in its place",
        ),
    ],
)
def test_a_package_that_is_not_the_manifests_is_refused_and_a_mended_one_is_taken(
    installation: Installation, package: Tree, sentence: str
) -> None:
    with pytest.raises(VerificationError, match=sentence):
        stage(installation, TREE, Shop(package_of(package)))
    stage(installation, TREE, Shop(package_of(TREE)))
    assert all(
        installation.holds(f"{STAGING}/{index}", entry)
        for index, entry in enumerate(manifest_of(TREE).files)
    )


def test_a_package_with_another_hash_is_not_opened(installation: Installation) -> None:
    with pytest.raises(VerificationError, match="the server announced 0000"):
        stage(installation, TREE, Shop(package_of(TREE)), sha256="0" * 64)
    stage(
        installation,
        TREE,
        Shop(package_of(TREE)),
        sha256=hashlib.sha256(package_of(TREE)).hexdigest(),
    )


def test_a_release_larger_than_the_disk_is_refused_before_it_is_fetched(
    installation: Installation,
) -> None:
    shop = CountingShop(b"")
    manifest = Manifest("app", "1.0.0", (FileEntry("huge", 2**40, "0" * 64, "644"),))
    with pytest.raises(
        InstallError, match="of free space, the update needs 2199024.* MB; make room"
    ):
        stage(installation, {}, shop, manifest=manifest)
    assert shop.asked == 0
