"""Every family with ordered semantic IDs, and histories to read."""

import pytest
import torch
from tiny_alignment import NUM_ITEMS, SMALL


@pytest.fixture(params=sorted(SMALL))
def family(request) -> str:
    return request.param


@pytest.fixture
def histories() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(NUM_ITEMS, (5, 7), generator=generator), torch.tensor([7, 4, 1, 0, 3])
