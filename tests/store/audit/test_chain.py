from __future__ import annotations

import dataclasses
import json
import math

from hypothesis import given
from hypothesis import strategies as st

from cloned_proxy.store.audit.chain import canonical_json
from cloned_proxy.telemetry.events import DecisionEvent, Event, FlowEnd, Kind, PolicyEvent

TEXT = st.text(max_size=20)
EVENTS = st.one_of(
    st.builds(
        DecisionEvent, id=TEXT, at=st.floats(), kind=st.sampled_from(Kind), verdict=TEXT, reason=TEXT,
        tool=st.none() | TEXT, run=st.none() | TEXT, host=TEXT, port=st.integers(), method=TEXT, path=TEXT, rule=TEXT,
        policy=TEXT, hint=TEXT, spends_use=st.booleans(),
    ),
    st.builds(
        FlowEnd, decision=TEXT, at=st.floats() | st.integers(), tool=st.none() | TEXT, bytes_up=st.integers(),
        bytes_down=st.integers(), seconds=st.floats(), cause=TEXT,
    ),
    st.builds(PolicyEvent, at=st.floats(), action=TEXT, actor=TEXT, summary=TEXT, why=TEXT, policy=TEXT),
)  # fmt: skip


@given(EVENTS)
def test_the_canonical_form_is_the_encoders_own_to_the_byte(event: Event) -> None:
    kind = {DecisionEvent: "decision", FlowEnd: "flow_end", PolicyEvent: "policy"}[type(event)]
    plain = json.dumps({**dataclasses.asdict(event), "type": kind}, sort_keys=True, separators=(",", ":"))
    assert canonical_json(event) == plain


def test_a_per_cent_sign_is_only_a_sign() -> None:
    event = PolicyEvent(at=math.pi, action="%s", actor="100%", summary="%(at)s", why="%", policy="%%")
    assert json.loads(canonical_json(event))["summary"] == "%(at)s"
