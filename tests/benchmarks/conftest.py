"""A tiny experiment for both sides of the benchmark."""

import pytest

from benchmarks.subset import Subset, open_subset
from engine.config import Config


@pytest.fixture(scope="session")
def tiny_subset(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Subset:
    """All twelve frames of the tiny dataset, linked."""
    return open_subset(tiny_config, 12, tmp_path_factory.mktemp("subset"))
