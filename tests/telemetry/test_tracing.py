"""Spans go to a real collector, or nowhere, and a caller's trace is kept either way."""

from __future__ import annotations

import pytest

from learnback_telemetry.context import ids_in_hand, note
from learnback_telemetry.tracing import Tracer, fail, link_to, open_tracer, trace_id_of, traceparent
from tests.telemetry.collector import Collector, attributes, identity, links

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


def test_spans_are_sent_with_their_links_and_what_is_noted() -> None:
    with Collector() as collector:
        tracer = open_tracer("a-program", collector.endpoint)
        with tracer.span("first", parent=PARENT):
            note(generation_id="gen-1")
            first = traceparent()
            tracer.past("step", 10, 20)
        with tracer.span("second", links=[first, "", "garbage"]):
            link_to(PARENT)
            fail("Broken")
        tracer.close()
    assert collector.services == {"a-program"}
    one, step, two = (collector.one(name) for name in ("first", "step", "second"))
    assert one.trace_id.hex() == TRACE == trace_id_of(first)
    assert one.parent_span_id.hex() == SPAN
    assert attributes(one)["learnback.generation_id"] == "gen-1"
    assert (step.trace_id, step.parent_span_id) == identity(one)
    assert step.end_time_unix_nano - step.start_time_unix_nano == 10
    assert links(two) == [identity(one), (bytes.fromhex(TRACE), bytes.fromhex(SPAN))]
    assert two.trace_id != one.trace_id
    assert two.status.message == "Broken"


def test_without_a_collector_the_callers_trace_goes_on() -> None:
    tracer = Tracer()
    with tracer.span("call", parent=PARENT):
        assert traceparent() == PARENT
        assert ids_in_hand() == {"trace_id": TRACE}
    with tracer.span("call"):
        assert traceparent() == ""
        assert ids_in_hand() == {}
    tracer.close()


def test_what_is_no_traceparent_is_none() -> None:
    for text in ("", "garbage", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{SPAN}", "\n"):
        assert trace_id_of(text) == ""
        with Tracer().span("call", parent=text):
            assert traceparent() == ""


def test_a_collector_that_is_away_hurts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    tracer = open_tracer("a-program", "http://127.0.0.1:9")
    with tracer.span("call"):
        assert traceparent()
    tracer.close()
