"""Programs that tests run beside mpchat: a missing one skips a test on a desk, and fails it in CI."""

import os
import shutil

import pytest


def needs(*programs: str) -> pytest.MarkDecorator:
    """Mark a test that runs ``programs``."""
    missing = [each for each in programs if shutil.which(each) is None]
    reason = f"needs {', '.join(missing)}; apt-get install what the README's second paragraph names"
    if missing and os.environ.get("CI"):
        raise RuntimeError(f"CI must not skip: {reason}")
    return pytest.mark.skipif(bool(missing), reason=reason)
