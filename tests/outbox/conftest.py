"""What the tests of the destinations share."""

import pytest

from tests.outbox.ingest_peers import Pki


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Certificates of every kind."""
    return Pki.make(tmp_path_factory.mktemp("pki"))
