"""Tiny models on disk, made once a session."""

import pytest

from tests.integration import tiny


@pytest.fixture(scope="session")
def random_model(tmp_path_factory):
    """A folder with random weights; its completions depend on the whole prompt."""
    return tiny.write_model(tmp_path_factory.mktemp("random") / "model")


@pytest.fixture(scope="session")
def sure_model(tmp_path_factory):
    """A folder with a model that always says `tiny.SAYS`."""
    return tiny.write_model(tmp_path_factory.mktemp("sure") / "model", says=tiny.SAYS)


@pytest.fixture(scope="session")
def adapter(tmp_path_factory, random_model):
    """A folder with a LoRA adapter on `random_model`."""
    return tiny.write_adapter(tmp_path_factory.mktemp("adapter") / "adapter", random_model)
