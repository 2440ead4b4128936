"""Reasons: how a connection ends, in words that workers and hub share."""

# The client has left in order; its name is free at once.
CLOSED = "closed"
# The process or the host that served the client is gone.
LOST = "lost"
# The server failed at something that the client sent; the log has the stack.
INTERNAL_ERROR = "internal error"
# The client has fallen too far behind.
SLOW = "slow consumer"
# The client holds most of the answers that a worker keeps, and they are too many.
UNREAD = "answers not read"
# A later connection has taken the name.
REPLACED = "replaced"
# The client does not encrypt, and has to; or it does, and no process had a descriptor for it.
UNENCRYPTED = "not encrypted"
NO_DESCRIPTOR = "no descriptor left"
# The client has not shown who it is, and has to. Its token is over. Its token is for a room that was closed.
UNPROVEN = "no proof"
EXPIRED = "token expired"
CLOSED_ROOM = "room closed"
# The client has left a frame, or the head of a request, unfinished for too long.
HALF_A_FRAME = "half a frame"
# The client has closed in the middle of a frame, or its first bytes are another protocol's.
CLOSED_INSIDE = "closed inside a frame"
NOT_A_FRAME = "not a frame"
