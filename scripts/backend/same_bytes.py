"""Build backend: flit's, with a time that does not depend on when a clone was made.

flit takes the times of files into the archives unless ``SOURCE_DATE_EPOCH`` says a time. All else that it
writes, order and modes, depends on the files alone. A distribution may set the variable itself.

It is loaded before anything of the project is installed, from the clone or from a source archive.
"""

import os

from flit_core.buildapi import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

# The hooks of PEP 517 and PEP 660.
__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

# 2016-01-01 00:00 UTC, in seconds since 1970: what flit gives to the files that it generates.
FIXED_TIME = "1451606400"

os.environ.setdefault("SOURCE_DATE_EPOCH", FIXED_TIME)
