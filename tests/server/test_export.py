"""The static site of a data folder.

Whole at every moment, only what changed, the same as the server.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Dict, List
from urllib.parse import urljoin

import pytest

from nuitkal_mini.problem import Problem
from nuitkal_mini.server import export as exporting
from nuitkal_mini.server.export import API, Exported, export

from .caller import Caller
from .test_backup import TREE, Stopped, image, stop_at

CHECKS = ("check/index.html", "check.json")


def shown(out: Path, channel: str = "") -> Dict[str, Any]:
    """What both forms of `check/` say, each with its files where it says they are."""
    found: List[Dict[str, Any]] = []
    for name in CHECKS:
        path = f"{API}/{channel}{name}"
        document = json.loads((out / path).read_bytes())
        for key in ("download_url", "manifest_url"):
            document[key] = urljoin(f"http://host/{path}", document[key])[len("http://host/") :]
            assert (out / document[key]).is_file()
        assert (out / document["download_url"]).stat().st_size == document["file_size"]
        found.append(document)
    assert found[0] == found[1]
    return found[0]


@pytest.fixture
def published(call: Caller) -> Caller:
    assert call.upload("1.0", TREE).status == 201
    assert call.upload("1.1", {**TREE, "new": b"x"}, channel="beta").status == 201
    return call


def test_the_site_says_what_the_server_says(published: Caller, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export(data, out) == Exported(8, 0)
    for channel in ("", "channels/beta/"):
        served = published.get(f"{channel}check/").json
        for key in ("download_url", "manifest_url"):
            served[key] = served[key].split("/", 3)[3]
        assert shown(out, channel) == served


def test_a_public_url_leads_to_absolute_ones(published: Caller, data: Path, tmp_path: Path) -> None:
    export(data, tmp_path / "out", "https://cdn.example")
    document = json.loads((tmp_path / "out" / API / "check.json").read_bytes())
    assert document["download_url"].startswith("https://cdn.example/media/nuitkal_packs/")


def test_only_what_changed_is_written(published: Caller, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(data, out)
    assert export(data, out) == Exported(0, 0)
    published.upload("1.2", {**TREE, "newer": b"y"})
    before = image(out)
    assert export(data, out) == Exported(4, 0)
    assert set(before) < set(image(out)) and shown(out)["version"] == "1.2"


def test_without_an_active_release_there_is_no_check(
    published: Caller, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(data, out)
    published.send("PATCH", "versions/1.0/", {"is_active": False})
    export(data, out)
    assert not [name for name in CHECKS if (out / API / name).exists()]
    assert shown(out, "channels/beta/")["version"] == "1.1"


def test_a_deleted_release_stays_for_a_day_and_goes_with_prune_alone(
    published: Caller, data: Path, tmp_path: Path
) -> None:
    out, moment = tmp_path / "out", [1000.0]

    def run(prune: bool = True) -> Exported:
        return export(data, out, prune=prune, now=lambda: moment[0])

    run()
    old = shown(out)["download_url"]
    published.upload("1.2", {**TREE, "newer": b"y"})
    assert published("DELETE", "versions/1.0/").status == 204
    run(prune=False)
    assert run().deleted == 0 and (out / old).exists()
    moment[0] += 86_399
    assert run().deleted == 0
    moment[0] += 1
    assert run(prune=False).deleted == 0
    assert run().deleted == 2 and not (out / old).exists()
    assert shown(out)["version"] == "1.2"
    (out / ".unneeded.json").write_text("[broken")
    assert run() == Exported(0, 0)


@pytest.mark.parametrize("where", ["data/out", "data/media"])
def test_an_export_into_the_data_folder_is_refused(
    published: Caller, data: Path, tmp_path: Path, where: str
) -> None:
    with pytest.raises(Problem, match="lies in the data folder"):
        export(data, tmp_path / where)


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="holds no data"):
        export(tmp_path / "typo", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_stopped_anywhere_the_site_is_the_old_one_or_the_new(
    published: Caller, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(data, tmp_path / "first")
    published.upload("1.2", {**TREE, "newer": b"y"})
    stopped = 0
    for operation in range(100):
        out = tmp_path / f"out{operation}"
        shutil.copytree(tmp_path / "first", out)
        with monkeypatch.context() as patch:
            stop_at(patch, operation)
            try:
                export(data, out)
                break
            except Stopped:
                stopped += 1
        for name in CHECKS:
            document = json.loads((out / API / name).read_bytes())
            assert document["version"] in ("1.0", "1.2")
            assert ((out / API / name).parent / document["download_url"]).resolve().is_file()
        export(data, out)
        assert shown(out)["version"] == "1.2"
        assert not [name for name in image(out) if name.endswith(".part")]
    assert stopped > 6


def test_watch_exports_after_every_change(
    published: Caller, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_WATCH_SECONDS", 0.01)
    runs = exporting.watch(data, lambda: export(data, tmp_path / "out"))
    assert next(runs).written == 8
    published.upload("1.2", {**TREE, "newer": os.urandom(9)})
    assert next(runs).written == 4 and shown(tmp_path / "out")["version"] == "1.2"
    runs.close()
