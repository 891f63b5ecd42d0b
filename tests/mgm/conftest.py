"""The checkpoints and bundles of a session."""

import pytest
from harness import Made, provide_deepspeed


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    provide_deepspeed(tmp_path_factory.mktemp("empty"))
    return Made(tmp_path_factory.mktemp("mgm"))
