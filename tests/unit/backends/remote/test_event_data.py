"""Server-sent events are read by their standard, whatever the chunks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_integrations.backends.remote.event_data import EventData

STREAMS = {
    b"data: a\n\ndata:b\n\n": [b"a", b"b"],
    b"data: a\r\n\r\ndata: b\r\n\r\n": [b"a", b"b"],
    b"data: a\r\rdata: b\r\r": [b"a", b"b"],
    b"\xef\xbb\xbfdata: a\n\n": [b"a"],
    b"data: {\ndata: }\n\n": [b"{\n}"],
    b": a comment\nevent: x\nid: 1\nretry: 5\ndata: a\n\n": [b"a"],
    b"data\ndata: a\nother: b\n\n": [b"a"],
    b"\n\n\ndata:\n\n": [],
    b"data: a\n\ndata: b\n": [b"a", b"b"],  # the empty line alone is missing
    b"data: a\n\ndata: b": [b"a"],  # the line has no end
    b"data: \xe2\x80\xa8\n\n": ["\u2028".encode()],
}


@pytest.mark.parametrize("stream", STREAMS)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_events_in_chunks_of_any_size(stream, sizes):
    events, found, start = EventData(), [], 0
    while start < len(stream):
        size = sizes[start % len(sizes)]
        found += events.feed(stream[start : start + size])
        start += size
    assert [*found, *events.end()] == STREAMS[stream] and events.size == len(stream)
