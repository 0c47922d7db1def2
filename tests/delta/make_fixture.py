"""Writes fixtures/release.delta, which the tests apply: `python -m tests.delta.make_fixture`.

fixtures/old.so.xz and new.so.xz were compiled once by g++ 12 (-O2 -fPIC -shared, stripped) from
generated C++: 60 functions with calls, switches, tables and exceptions. The second has one function
more and one that calls it.
"""

from __future__ import annotations

from tests.delta.programs import FIXTURES
from tests.delta.releases import release_pair, written

if __name__ == "__main__":
    FIXTURES.joinpath("release.delta").write_bytes(written(*release_pair()))
