"""Whole updates over networks that half work: each ends with the new version, over few bytes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Callable, Dict, Tuple

import pytest

from nuitkal_mini import ClientUpdater, UpdaterConfig

from ..trees import Tree, read_tree
from .conftest import Exchange, Serve
from .site import Site


def noise(seed: int, size: int = 300_000) -> Tuple[bytes, str]:
    return random.Random(seed).getrandbits(8 * size).to_bytes(size, "big"), "644"


OLD: Tree = {"main.py": (b"print('old')\n", "644"), **{f"lib{n}": noise(n) for n in range(6)}}
NEW: Tree = {**OLD, "main.py": (b"print('new')\n", "644"), "lib3": noise(33), "lib0": noise(30)}


@pytest.fixture
def updater(site: Site, tmp_path: Path) -> ClientUpdater:
    """OLD is installed, NEW is offered; of its package a third is needed."""
    updater = ClientUpdater(UpdaterConfig(site.url, tmp_path / "client"))
    site.publish("1.0.0", OLD)
    assert updater.update()
    site.publish("1.0.1", NEW)
    site.requests()
    return updater


def installed(updater: ClientUpdater) -> Tree:
    return read_tree(updater.config.client_dir, (".update", ".backup", "local_version.json"))


def sent(site: Site, answer: Callable[[Exchange, bytes], None]) -> Dict[str, int]:
    """Counts the bytes of packages that leave the server from now on, which `answer` sends."""
    count = {"bytes": 0, "requests": 0}

    def counted(exchange: Exchange) -> None:
        name = exchange.path.lstrip("/")
        if not name.endswith(".zip"):
            return site._answer(exchange)
        count["requests"] += 1
        real = exchange.wfile.write

        def write(data: bytes) -> int:
            count["bytes"] += len(data) if not data.startswith(b"HTTP/1.1") else 0
            return real(data)

        exchange.wfile.write = write  # type: ignore[method-assign]
        answer(exchange, site.files[name])

    site.origin.answer = counted
    return count


def refusing(status: int, body: bytes = b"", **headers: str) -> Callable[[Exchange, bytes], None]:
    return lambda exchange, package: (
        exchange.reply(status, body, **headers)
        if "Range" in exchange.headers
        else exchange.reply_file(package)
    )


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(refusing(403), id="403"),
        pytest.param(refusing(416, Content_Range="bytes */5"), id="416"),
        pytest.param(refusing(400), id="400"),
        pytest.param(refusing(500), id="500"),
        pytest.param(refusing(206, b"x" * 100, Content_Range="bytes 0-99/*"), id="0-99/*"),
        pytest.param(refusing(206, b"x" * 100), id="no Content-Range"),
        pytest.param(
            refusing(206, b"", Content_Type="multipart/byteranges; boundary=x"), id="multi"
        ),
        pytest.param(lambda exchange, package: exchange.reply(200, package), id="200"),
    ],
)
def test_without_ranges_the_package_comes_whole_and_once(
    site: Site, updater: ClientUpdater, answer: Callable[[Exchange, bytes], None]
) -> None:
    count = sent(site, answer)
    assert updater.update() and installed(updater) == NEW
    size = len(site.files["1.0.1.zip"])
    assert size <= count["bytes"] < size + 1000 and count["requests"] <= 5


def test_nodes_of_a_cdn_with_etags_of_their_own_cost_no_byte_more(
    site: Site, updater: ClientUpdater
) -> None:
    def node(exchange: Exchange, package: bytes) -> None:
        exchange.reply_file(package, etag=f'"{count["requests"]}"', cut=100_000)

    count = sent(site, node)
    assert updater.update() and installed(updater) == NEW
    assert 600_000 < count["bytes"] < 610_000


def test_a_package_that_changed_between_two_processes_is_fetched_once_more(
    site: Site, updater: ClientUpdater
) -> None:
    """The parts of two packages of one size make neither: the hash shows it."""
    site.publish("1.0.2", {"main.py": noise(99), **{f"new{n}": noise(100 + n) for n in range(4)}})
    good = site.files["1.0.2.zip"]
    bad = bytes(len(good))

    def changed(exchange: Exchange, package: bytes) -> None:
        exchange.reply_file(bad if count["requests"] == 1 else good, cut=len(good) // 2)

    count = sent(site, changed)
    assert updater.update() and updater.installed_version == "1.0.2"
    assert count["bytes"] <= 2.5 * len(good)


def test_a_storages_labels_and_an_editors_byte_order_mark_change_nothing(
    site: Site, updater: ClientUpdater
) -> None:
    def labelled(exchange: Exchange) -> None:
        name = exchange.path.split("?")[0].lstrip("/")
        body = b"\xef\xbb\xbf" + json.dumps(site.check).encode() if name == "check" else b""
        exchange.reply(
            200, body or site.files[name], Content_Encoding="aws-chunked", Content_Type="text/html"
        )

    site.origin.answer = labelled
    assert updater.update() and updater.installed_version == "1.0.1"


def test_a_configured_proxy_carries_the_whole_update(
    site: Site, updater: ClientUpdater, serve: Serve
) -> None:
    proxied = []

    def forward(exchange: Exchange) -> None:
        proxied.append(exchange.path)
        exchange.path = exchange.path[len(site.origin.url) - 1 :]
        site._answer(exchange)

    updater.config.proxy = serve(forward).url
    assert updater.update() and updater.installed_version == "1.0.1"
    assert not site.requests() and all(path.startswith(site.origin.url) for path in proxied)
    assert len(proxied) >= 3
