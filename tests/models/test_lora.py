"""LoRA through peft: what is trained, what is saved, and an adapter merged into its backbone."""

import peft
import pytest
import torch
from pretrained_stand_ins import make, save
from test_llm import SPARSE, losses_of, make_model

from genrec.errors import ArtifactError
from genrec.models import load_recommender

ITEMS, LENGTHS = torch.tensor([[4, 9, 2], [7, 3, 0]]), torch.tensor([3, 2])


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3-moe", "mixtral"])
def test_only_low_rank_matrices_and_new_rows_are_trained(kind, tmp_path):
    model = make_model(backbone=save(tmp_path / kind, kind), lora_rank=2, text_weight=0.0).train()
    learned = {name for name, value in model.named_parameters() if value.requires_grad}
    assert {name for name in learned if ".lora_" not in name} <= {"codes.weight", "code_head.weight"}
    assert len(learned) > 8
    assert any(".mlp.experts." in name for name in learned) == (kind in SPARSE)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=0.01)
    losses = losses_of(model, ITEMS, LENGTHS, optimizer, steps=3)
    assert losses[2] < losses[0]
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == learned


@pytest.mark.parametrize("kind", ["llama", "qwen3-moe", "mixtral"])
def test_it_starts_where_the_backbone_is_and_comes_back_from_its_folder(kind, tmp_path):
    """The matrices add nothing before they are trained; a saved model needs nothing but its folder."""
    source = save(tmp_path / kind, kind)
    model, plain = make_model(backbone=source, lora_rank=2), make_model(backbone=source)
    assert torch.allclose(model(ITEMS, LENGTHS).loss, plain(ITEMS, LENGTHS).loss, atol=1e-6)
    for name, value in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(value, std=0.1)
    model.save_pretrained(tmp_path / "model")
    loaded = load_recommender(tmp_path / "model")
    assert torch.equal(loaded(ITEMS, LENGTHS).loss, model(ITEMS, LENGTHS).loss)
    assert not torch.allclose(loaded(ITEMS, LENGTHS).loss, plain(ITEMS, LENGTHS).loss, atol=1e-4)


def test_an_adapter_is_merged_into_its_backbone(tmp_path):
    """Its weight is w + B A alpha / r, by hand; an adapter that lacks only the output's size is refused too."""
    source, adapter = save(tmp_path / "llama", "llama"), tmp_path / "adapter"
    adapted = peft.get_peft_model(make("llama"), peft.LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj"]))
    layer = adapted.base_model.model.model.layers[0].self_attn.q_proj
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    added = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * 3
    adapted.save_pretrained(str(adapter))
    model, plain = make_model(backbone=source, adapter=str(adapter)), make_model(backbone=source)
    weights = [one.lm.model.layers[0].self_attn.q_proj.weight for one in (model, plain)]
    assert torch.allclose(weights[0], weights[1] + added, atol=1e-6)
    assert not any(".lora_" in name for name, _ in model.named_parameters())
    for name, shape in (("heads", {"num_attention_heads": 8, "head_dim": 8}), ("layers", {"num_hidden_layers": 3})):
        other = save(tmp_path / name, "llama", **shape)
        with pytest.raises(ArtifactError, match="the adapter is for another language model"):
            make_model(backbone=other, adapter=str(adapter))


def test_an_adapter_that_is_no_part_of_the_weights_is_refused(tmp_path):
    prompts = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    peft.get_peft_model(make("llama"), prompts).save_pretrained(str(tmp_path / "prompts"))
    with pytest.raises(ArtifactError, match=r"kind PROMPT_TUNING cannot be merged(?s:.*)peft_type LORA or IA3"):
        make_model(backbone=save(tmp_path / "llama", "llama"), adapter=str(tmp_path / "prompts"))
