"""Settings files to load."""

from pathlib import Path

import pytest

from tests.settings.loading import Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a settings file and returns its path."""

    def put(text: str | bytes, name: str = "spyder.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return put
