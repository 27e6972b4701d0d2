"""Every family learns the same when its weights are sharded, and when its layers compute again for the gradient."""

import copy

import numpy as np
import pytest
import torch
from test_recommenders import VARIANTS, make_model
from torch import distributed

from genrec.distributed.launch import Launch
from genrec.distributed.world import World
from genrec.models.registry import FAMILIES
from genrec.training.gradient_checkpointing import blocks_of, recomputed
from genrec.training.strategies.base import full_tensor
from genrec.training.strategies.fsdp import FSDP2


@pytest.fixture(scope="module", autouse=True)
def _world_of_one():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture
def histories() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(40, (6, 9), generator=generator), torch.tensor([9, 4, 1, 6, 2, 3])


def gradients(model: torch.nn.Module, histories: tuple[torch.Tensor, torch.Tensor]) -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    model.train()
    items, lengths = histories
    model(items=items, lengths=lengths).loss.backward()
    return {name: full_tensor(value.grad).numpy() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("family", sorted([*FAMILIES, *VARIANTS]))
def test_sharded_or_computed_again_it_learns_the_same(family: str, histories):
    model = make_model(family)
    assert list(blocks_of(model))
    expected = gradients(copy.deepcopy(model), histories)
    shards = FSDP2(copy.deepcopy(model), Launch(1, "fsdp2", cpu=True), World())
    again = copy.deepcopy(model)
    with recomputed(again, True):
        ways = {"sharded": gradients(shards.trained, histories), "computed again": gradients(again, histories)}
    for way, found in ways.items():
        assert found.keys() == expected.keys(), way
        for name, value in expected.items():
            scale = max(float(np.abs(value).max()), 1e-3)
            np.testing.assert_allclose(found[name] / scale, value / scale, atol=1e-4, err_msg=f"{way}: {name}")
    shards.gather_weights()
    for left, right in zip(model.state_dict().values(), shards.network.state_dict().values(), strict=True):
        assert torch.equal(left, right)
