"""Shared pages: a blob in a file in memory, which all sockets send from without a copy for each.

What ``sendfile`` sends of it is not copied: sockets refer to its pages, which live until the last client has
read them, also after the file was closed. So nothing is ever written to them again.
"""

import errno
import os


class Pages:
    """A file in memory that holds a blob, closed with the last reference to it.

    Raises ``OSError`` where the system has no descriptor or no memory for it; ``AttributeError`` where it has
    no such files.
    """

    def __init__(self, blob: bytes) -> None:
        self.descriptor = os.memfd_create("blob", os.MFD_CLOEXEC)
        if os.pwrite(self.descriptor, blob, 0) != len(blob):
            raise OSError(errno.ENOMEM, "not all of it was written")

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
