"""A sparse mixture of experts in the place of a feed-forward layer: many experts, few of them for each position.

The router picks ``experts_per_token`` experts by softmax scores in float32; their outputs are mixed by these scores,
scaled to a sum of one (Mixtral, Jiang et al. 2024), so that copies of one dense layer give what that layer gives.
Shared experts (DeepSeekMoE, Dai et al. 2024) serve every position in addition to them. Positions are sorted by expert,
and
every expert works on one segment: ``grouped_mm`` of torch where the device has it, one product per segment elsewhere.

Positions that are not real (padding, absent places of a session, codes after the end of a shorter semantic ID) are
neither routed nor counted, and their output is zero. Every caller says which are real: with ``forward``, or with
:func:`only_real` where a library calls the layer. Capacity and the losses of the router act in training only: what a
model answers does not depend on what else is in the batch. In training the loads, and the losses made of them, are
those of all processes together.

Experts can be spread over processes (:meth:`MixtureOfExperts.spread`). DeepSpeed's MoE was tried for it and is another
layer: its weight of a single choice is no one, it balances first choices of each process only, knows no bias, pads all
experts to the fullest, and leaves gradients to an engine of its own. So only its groups of processes are taken over.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.functional import dropout, linear, relu, silu

from genrec.config import Section
from genrec.config.ranges import Few, FewOrNone, Layers, Positive, Rate, Weight
from genrec.distributed.all_to_all import all_to_all_apply, total_of_all

# torch's grouped product wants rows that start at multiples of this many bytes.
ALIGNMENT = 16


class ExpertSettings(Section):
    """Settings of sparse feed-forward layers."""

    experts: FewOrNone = Field(0, description="experts of a feed-forward layer; 0 keeps the layer dense")
    experts_per_token: Few = Field(2, description="experts that each position is routed to")
    shared_experts: FewOrNone = Field(0, description="experts that serve every position in addition to the routed ones")
    expert_every: Layers = Field(1, description="every n-th layer has experts, the others are dense")
    expert_dropout: Rate = Field(0.0, description="rate on the inner activations of routed experts")
    balance: Literal["aux", "bias", "none"] = Field("aux", description="how experts get equal loads")
    balance_weight: Weight = Field(0.1, description="weight of the balance loss (aux)")
    bias_step: Positive = Field(0.001, description="change of an expert's bias per step (bias)")
    z_loss_weight: Weight = Field(0.0, description="weight of the squared log-sum-exp of the router's logits")
    capacity_factor: Positive | None = Field(
        None, description="positions per expert in training, as a multiple of equal loads; null drops none"
    )

    @property
    def unread(self) -> dict[str, str]:
        """Settings that nothing reads while the others are as they are, each with what it would need."""
        if not self.experts:
            return dict.fromkeys([name for name in ExpertSettings.model_fields if name != "experts"], "experts")
        needed = {"balance_weight": "aux", "bias_step": "bias"}
        return {name: f"balance: {balance}" for name, balance in needed.items() if self.balance != balance}

    @model_validator(mode="after")
    def _experts_are_enough(self) -> "ExpertSettings":
        if self.experts and self.experts_per_token > self.experts:
            raise ValueError(
                f"experts_per_token {self.experts_per_token} is more than the {self.experts} experts that there are"
            )
        return self


@dataclass(frozen=True)
class Routing:
    """Where one forward pass sent its positions, in training those of all processes.

    Attributes:
        counts: Positions that chose each expert, dropped ones included, float32 ``[E]``.
        dropped: Choices that were dropped for want of capacity, float32 scalar.
        entropy: Mean entropy of the router's distribution in nats, float32 scalar; ``log E`` if it knows nothing.
        chosen: Experts of every position that this process routed, the strongest first, int64 ``[n, k]``.
    """

    counts: Tensor
    dropped: Tensor
    entropy: Tensor
    chosen: Tensor


class MixtureOfExperts(nn.Module):
    """Routed and shared experts; see the module.

    Args:
        hidden_size: Width D.
        inner_size: Inner width F of each expert.
        settings: With at least one expert.
        gated: SwiGLU experts; else two matrices with a ReLU between, as in T5.

    Attributes:
        counted: Whether what is routed counts: not where it only replaces a batch that a process does not have.
        mask: Which positions are real, bool ``[...]``, where a call does not say it; None takes all.
    """

    # The parameters whose first dimension is the experts and which :meth:`spread` divides.
    SPREAD = ("first", "second")
    selection_bias: Tensor | None

    def __init__(self, hidden_size: int, inner_size: int, settings: ExpertSettings, *, gated: bool = True) -> None:
        super().__init__()
        self.settings, self.gated = settings, gated
        wide, shared = (2 if gated else 1) * inner_size, settings.shared_experts
        self.router = nn.Parameter(torch.zeros(settings.experts, hidden_size))
        self.first = nn.Parameter(torch.zeros(settings.experts, wide, hidden_size))
        self.second = nn.Parameter(torch.zeros(settings.experts, hidden_size, inner_size))
        self.shared_first = nn.Parameter(torch.zeros(shared * wide, hidden_size)) if shared else None
        self.shared_second = nn.Parameter(torch.zeros(hidden_size, shared * inner_size)) if shared else None
        bias = torch.zeros(settings.experts, dtype=torch.float32) if settings.balance == "bias" else None
        self.register_buffer("selection_bias", bias)
        self.auxiliary: Tensor | None = None
        self.routing: Routing | None = None
        self.counted = True
        self.mask: Tensor | None = None
        self.group: ProcessGroup | None = None
        self.reset(0.02, 0.02)

    def __getstate__(self) -> dict[str, Any]:
        # Copies of a model in training do not take the graph of its last step along.
        return {**self.__dict__, "auxiliary": None, "real": None}

    def reset(self, first_std: float, second_std: float) -> None:
        """Draw all weights anew, with these standard deviations of the experts' first and second matrices."""
        nn.init.normal_(self.router, std=0.02)
        for weight, std in (
            (self.first, first_std),
            (self.second, second_std),
            (self.shared_first, first_std),
            (self.shared_second, second_std),
        ):
            if weight is not None:
                nn.init.normal_(weight, std=std)

    @torch.no_grad()
    def copy_dense(self, first: Tensor, second: Tensor) -> None:
        """Make every expert a copy of a dense layer, so that the output is that of the layer.

        Sparse upcycling (Komatsuzaki et al. 2023). The routed experts and each shared one give an equal part.

        Args:
            first: ``[2F, D]`` where experts are gated, else ``[F, D]``.
            second: ``[D, F]``.
        """
        shared = self.settings.shared_experts
        second = second / (1 + shared)
        self.first.copy_(first.expand_as(self.first))
        self.second.copy_(second.expand_as(self.second))
        if self.shared_first is not None and self.shared_second is not None:
            halves = first.chunk(2 if self.gated else 1)
            self.shared_first.copy_(torch.cat([half.repeat(shared, 1) for half in halves]))
            self.shared_second.copy_(second.repeat(1, shared))

    def spread(self, group: ProcessGroup) -> None:
        """Keep this process's part of the routed experts; those of the others get their rows sent.

        Args:
            group: Processes that divide the number of experts, and that all take part in every forward pass.
        """
        self.group = group
        for name in self.SPREAD:
            own = getattr(self, name).detach().chunk(group.size())[group.rank()]
            setattr(self, name, nn.Parameter(own.clone()))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map ``x [..., D]`` to the same shape; positions where bool ``mask [...]`` is False become zeros."""
        mask = self.mask if mask is None else mask
        if mask is None:
            return self._mix(x.flatten(0, -2)).view_as(x)
        mixed = self._mix(x[mask])
        return mixed.new_zeros(x.shape).masked_scatter(mask.unsqueeze(-1), mixed)

    def _mix(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            logits = linear(x.float(), self.router.float())
            scores = logits.softmax(-1)
            chosen, gates = self._choose(scores)
        order, counts = self._sort(chosen, gates)
        self._note(logits, scores, chosen, len(order))
        rows = order // self.settings.experts_per_token
        mixed = self._experts(x[rows], counts) * gates.flatten()[order].unsqueeze(-1)
        out = mixed.new_zeros(x.shape).index_add(0, rows, mixed)
        if self.shared_first is not None and self.shared_second is not None:
            out = out + linear(self._activate(linear(x, self.shared_first)), self.shared_second)
        return out.to(x.dtype)

    def _choose(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Experts int64 ``[n, k]`` and their weights float32 ``[n, k]`` from ``scores [n, E]``."""
        ranked = scores if self.selection_bias is None else scores + self.selection_bias
        chosen = ranked.topk(self.settings.experts_per_token, dim=-1).indices
        gates = scores.gather(-1, chosen)
        total = gates.sum(-1, keepdim=True)
        # A single weight is 1 whatever the router says; left in the graph alone, it still tells the router what to do.
        return chosen, gates / (total.detach() if chosen.shape[1] == 1 else total)

    def _sort(self, chosen: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        """Choices to compute, as places in ``chosen [n, k]`` sorted by expert, and how many each expert has.

        Beyond its capacity an expert keeps the choices with the largest weights (V-MoE, Riquelme et al. 2021).
        """
        expert, factor = chosen.flatten(), self.settings.capacity_factor
        counts = torch.bincount(expert, minlength=self.settings.experts)
        if factor is None or not self.training:
            return expert.argsort(stable=True), counts
        order = gates.detach().flatten().argsort(descending=True, stable=True)
        order = order[expert[order].argsort(stable=True)]
        limit = math.ceil(factor * len(expert) / self.settings.experts)
        place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[expert[order]]
        return order[place < limit], counts.clamp(max=limit)

    def _experts(self, x: Tensor, counts: Tensor) -> Tensor:
        """Each expert on its segment of ``x [m, D]``, wherever it is."""
        if self.group is None:
            return self._own_experts(x, counts)
        return all_to_all_apply(x, counts, self._own_experts, self.group)

    def _own_experts(self, x: Tensor, counts: Tensor) -> Tensor:
        """Each expert of this process on its segment of ``x [m, D]``."""
        inner = self._activate(grouped_linear(x, self.first, counts))
        return grouped_linear(dropout(inner, self.settings.expert_dropout, self.training), self.second, counts)

    def _activate(self, inner: Tensor) -> Tensor:
        if not self.gated:
            return relu(inner)
        gate, up = inner.chunk(2, dim=-1)
        return silu(gate) * up

    def _note(self, logits: Tensor, scores: Tensor, chosen: Tensor, computed: int) -> None:
        """Keep the loads and, in training, the router's losses; move the biases."""
        settings, learns = self.settings, self.training and torch.is_grad_enabled()
        counts = torch.bincount(chosen.flatten(), minlength=settings.experts)
        with torch.no_grad():
            entropy = torch.special.entr(scores).sum()
        seen = scores.new_tensor([len(scores), chosen.numel() - computed])
        sums = torch.cat([scores.sum(0), logits.logsumexp(-1).square().sum()[None], entropy[None], counts, seen])
        sums = sums if self.counted else sums * 0
        sums = total_of_all(sums) if learns else sums
        scored, squares, entropy, counts, positions, dropped = sums.split([len(counts), 1, 1, len(counts), 1, 1])
        positions = positions.clamp(min=1)
        self.routing = Routing(counts.detach(), dropped[0].detach(), (entropy / positions)[0].detach(), chosen)
        self.auxiliary = None
        if not learns:
            return
        self.auxiliary = settings.z_loss_weight * (squares / positions)[0]
        if settings.balance == "aux":
            self.auxiliary = self.auxiliary + settings.balance_weight * balance_loss(
                scored / positions, counts.detach()
            )
        if self.selection_bias is not None:
            step = torch.sign(counts.mean() - counts).detach()
            self.selection_bias.add_(step, alpha=settings.bias_step)


def grouped_linear(x: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """Multiply segments of rows by one matrix each.

    Args:
        x: ``[m, D]``, segment after segment.
        weights: ``[E, F, D]``.
        counts: Rows of each segment, int64 ``[E]``, m in all.

    Returns:
        ``[m, F]``.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weights = x.to(dtype), weights.to(dtype)
    if can_group(x, weights):
        ends = counts.cumsum(0).to(torch.int32)
        return torch.nn.functional.grouped_mm(x, weights.transpose(-1, -2), offs=ends)
    parts = zip(x.split(counts.tolist()), weights.unbind(), strict=True)
    return torch.cat([linear(part, weight) for part, weight in parts])


def can_group(x: Tensor, weights: Tensor) -> bool:
    """Whether torch's grouped product runs, and is worth it, for these: on a GPU in bfloat16, with aligned rows."""
    if x.device.type != "cuda" or x.dtype != torch.bfloat16 or not hasattr(torch.nn.functional, "grouped_mm"):
        return False
    return all(size * x.element_size() % ALIGNMENT == 0 for size in weights.shape[1:])


def balance_loss(scores: Tensor, counts: Tensor) -> Tensor:
    """E times the sum over experts of load share times mean score: 1 at equal loads (Switch, Fedus et al. 2021, 2.2).

    Args:
        scores: The router's distribution, its mean over positions, float32 ``[E]``.
        counts: Choices of each expert, float32 ``[E]``.
    """
    return len(counts) * (counts / counts.sum().clamp(min=1) * scores).sum()


def expert_layers(modules: Iterable[nn.Module]) -> list[MixtureOfExperts]:
    """Those of the modules that are mixtures of experts, in their order."""
    return [module for module in modules if isinstance(module, MixtureOfExperts)]


@contextmanager
def only_real(layers: Iterable[MixtureOfExperts], mask: Tensor | None) -> Iterator[None]:
    """Let layers route real positions only where what calls them passes no mask.

    Args:
        layers: Each is called with ``x [..., D]`` inside of the context.
        mask: bool ``[...]``; None takes all positions.
    """
    layers = list(layers)
    for layer in layers:
        layer.mask = mask
    try:
        yield
    finally:
        for layer in layers:
            layer.mask = None


def equal_masks(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What a pass enters and what its repetition for the gradient does, so that both route the same positions."""
    layers = expert_layers(block.modules())
    return nullcontext(), only_real(layers, layers[0].mask if layers else None)


def routing_metrics(routings: Iterable[Routing | None]) -> dict[str, Any]:
    """What the last forward pass did.

    Args:
        routings: Of every layer; None before its first pass.

    Returns:
        ``expert_load`` (share of the choices per layer and expert), ``expert_max_load`` (the largest load as a multiple
        of equal loads), ``expert_entropy`` (nats, mean over layers), ``expert_dropped`` (share of the choices);
        nothing before the first pass.
    """
    known = [routing for routing in routings if routing is not None]
    if not known:
        return {}
    counts = torch.stack([routing.counts for routing in known]).double().cpu()
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    dropped = sum(int(routing.dropped) for routing in known)
    return {
        "expert_load": [[round(share, 4) for share in row] for row in shares.tolist()],
        "expert_max_load": round(float(shares.max()) * shares.shape[1], 4),
        "expert_entropy": round(sum(float(routing.entropy) for routing in known) / len(known), 4),
        "expert_dropped": round(dropped / max(float(counts.sum()), 1.0), 4),
    }
