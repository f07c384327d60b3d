"""Where the tests find the real input of others (pages, robots files, certificates, lists).

That data lies beside the checkout, is never committed, and may be absent: a test that needs it is then skipped, and
says so.
"""

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("SPYDER_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def shared(relative: str) -> Path:
    """Return the path of one shared file, or skip the running test (or module) with a line that names it."""
    path = ROOT / relative
    if not path.exists():
        pytest.skip(f"shared test data is absent: {path}", allow_module_level=True)
    return path
