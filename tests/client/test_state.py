from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from nuitkal_mini.client.state import RolledBack, State, dump_state, parse_state
from nuitkal_mini.client.trust import KeyRecord, TrustState
from nuitkal_mini.manifest import dumps, loads
from nuitkal_mini.problem import Problem

from ..trees import manifest_of, trees

TEXT = st.text(max_size=8)
VERSIONS = st.sampled_from(["1.0.0", "v2", "2025.01.05", "1.0.0-beta.1+build"])
MARKS = st.builds(KeyRecord, TEXT, VERSIONS, TEXT, st.integers(0, 2**40), st.just("") | VERSIONS)
TRUSTS = st.builds(
    TrustState,
    TEXT,
    st.lists(TEXT).map(tuple),
    st.lists(MARKS, max_size=3).map(tuple),
    st.lists(TEXT).map(tuple),
)
STATES = st.builds(
    State,
    VERSIONS,
    TEXT,
    TEXT,
    TEXT,
    TEXT,
    st.none() | st.builds(RolledBack, VERSIONS, TEXT),
    st.none() | st.integers(0, 3),
    TEXT,
    TRUSTS,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | VERSIONS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from(
                ["version", "trust", "records", "rolled_back", "trial_starts", "keys", "app", "id"]
            ),
            inner,
            max_size=8,
        )
    ),
)


@given(state=STATES)
def test_a_state_comes_back_as_it_was(state: State) -> None:
    assert parse_state(dump_state(state)) == state


@given(tree=trees(), text=st.text())
def test_the_manifest_in_it_is_kept_byte_for_byte(tree: dict, text: str) -> None:  # type: ignore[type-arg]
    manifest = dumps(manifest_of(tree))
    state = parse_state(dump_state(State("1.0.0", manifest=manifest.decode())))
    assert state.manifest.encode() == manifest and state.tree() == loads(manifest)


def test_text_that_is_no_unicode_is_no_traceback() -> None:
    state = State("1.0.0", package="\ud800")  # a server can say so in JSON
    assert parse_state(dump_state(state)) == state


def test_the_version_file_of_the_original_is_a_state() -> None:
    state = parse_state(b'{"version": "1.0.1", "updated_at": "2024-05-01"}')
    assert state == State("1.0.1") and state.tree() is None


def test_a_damaged_manifest_in_it_is_nobodys_tree() -> None:
    assert State("1.0.0", manifest="{}").tree() is None


@given(value=JSON)
def test_any_json_is_a_state_or_a_sentence(value: object) -> None:
    try:
        state = parse_state(json.dumps(value).encode())
    except Problem:
        return
    assert parse_state(dump_state(state)) == state
    state.trust.highest(), state.trust.minimum(), state.trust.newest()  # what a start asks it works
