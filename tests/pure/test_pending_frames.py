"""What waits for a room's next flush goes out in order, in whole frames and not too much at once."""

from hypothesis import given
from hypothesis import strategies as st

from mpchat.protocol.frames import encode_frame
from mpchat.protocol.framing import PLAIN_FRAMING
from mpchat.worker.fanout import ENOUGH, NEARLY_ENOUGH, Pending

# A piece of so many frames of so many bytes each: small ones, such as the hub sends, and longer ones.
PIECES = st.tuples(st.integers(1, 700), st.sampled_from([0, 20, 90, 200])) | st.tuples(
    st.integers(1, 3), st.sampled_from([40_000, 65_000, 65_535])
)


@given(st.lists(PIECES | st.none(), max_size=30))
def test_all_goes_out_in_order_in_whole_frames(steps: list[tuple[int, int] | None]) -> None:
    pending = Pending(PLAIN_FRAMING)
    said, taken = bytearray(), bytearray()
    number = 0
    for step in [*steps, *[None] * 200]:
        if step is not None:
            count, length = step
            lines = [(b"%06d" % (number + each)).ljust(length, b"x") for each in range(count)]
            number += count
            frames = b"".join(map(encode_frame, lines))
            pending.add(count, frames)
            said += frames
        elif pending:
            before = pending.size
            blob, count = pending.take()
            assert PLAIN_FRAMING.leading(blob, len(blob)) == (count, len(blob))
            assert len(blob) <= ENOUGH
            # Less goes only where there is no more, or a frame does not fit.
            assert len(blob) == before or len(blob) >= min(NEARLY_ENOUGH, ENOUGH - 65_537)
            assert pending.size == before - len(blob)
            taken += blob
    assert (taken, pending.size, pending.messages, bool(pending)) == (said, 0, 0, False)
