"""Trainings of tiny models."""

import pytest


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Threads that wait for each other at every operation of a tiny model take a hundred times as long on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
