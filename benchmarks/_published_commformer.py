"""The published formulation of CommFormer, spelt out in plain PyTorch to be timed.

Embeddings of the relation types are repeated for every sample, projected for every pair, and added to queries and keys
as (n, n, B, d) tensors. Acting runs the whole decoder once per agent, and each pass loops over the agents' heads.
Tokens are one-hot vectors; causal mask and graph are two masks. Weights are those of a ``CommFormer`` of the package,
whose options scale, decoder_mask and relation at "official" compute the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.teams.network.commformer import CommFormer
from manyone.teams.network.transformer import AgentHeads, DecoderBlock, EncoderBlock


class PairAttention(nn.Module):
    """Attention in time-first layout with a relation embedding for every pair and sample."""

    def __init__(self, source: nn.Module, agents: int, causal: bool) -> None:
        super().__init__()
        self.inner, self.heads = source, source.heads
        self.causal = torch.ones(agents, agents, dtype=torch.bool, device=source.out.weight.device).triu(1)
        self.masked = causal

    def forward(self, query: Tensor, source: Tensor, relation: Tensor, graph: Tensor) -> Tensor:
        n, batch, d = query.shape
        width = d // self.heads
        weight, bias = self.inner.project.weight, self.inner.project.bias
        if query is source:
            q, k, v = F.linear(query, weight, bias).chunk(3, -1)
        else:
            q = F.linear(query, weight[:d], bias[:d])
            k, v = F.linear(source, weight[d:], bias[d:]).chunk(2, -1)
        q, k, v = (x.contiguous().view(n, batch * self.heads, width) for x in (q, k, v))
        ra, rb = self.inner.relation(relation).chunk(2, -1)
        ra = ra.contiguous().view(n, n, batch * self.heads, width).transpose(0, 1)
        rb = rb.contiguous().view(n, n, batch * self.heads, width).transpose(0, 1)
        pair_q = (q.unsqueeze(1) + ra) * width**-0.5
        pair_k = k.unsqueeze(0) + rb
        scores = torch.einsum("ijbn,ijbn->ijb", [pair_q, pair_k]) * width**-0.5
        if self.masked:
            scores = scores.masked_fill(self.causal.unsqueeze(-1), -torch.inf)
        looped = graph + torch.eye(n, device=graph.device).unsqueeze(-1)
        weights = F.softmax(scores.masked_fill(looped == 0, -torch.inf), dim=1) * looped
        mixed = torch.einsum("ijb,jbn->bin", [weights, v])
        return self.inner.out(mixed.transpose(0, 1).contiguous().view(n, batch, d))


class PublishedCommFormer(nn.Module):
    """Acting and evaluating with the weights of ``policy`` (per-agent heads, discrete actions, no dropout)."""

    def __init__(self, policy: CommFormer) -> None:
        super().__init__()
        self.policy, agents = policy, policy.spec.agents
        self.agents, self.count = agents, policy.spec.actions
        self.encoder_attention = nn.ModuleList(
            PairAttention(block.attention, agents, causal=False) for block in policy.encoder.blocks
        )
        self.own = nn.ModuleList(PairAttention(block.own, agents, causal=True) for block in policy.decoder)
        self.cross = nn.ModuleList(PairAttention(block.cross, agents, causal=True) for block in policy.decoder)

    def relations(self, graph: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """Embeddings [n, n, B, d] of every pair's type, and the graph [n, n, 1]."""
        types = self.policy.edges(graph.unsqueeze(0).long()).repeat(batch, 1, 1, 1)
        return types.permute(1, 2, 0, 3).contiguous(), graph.unsqueeze(-1)

    def encode(self, observations: Tensor, relation: Tensor, graph: Tensor) -> tuple[Tensor, Tensor]:
        """Representations [B, n, d] and values [B, n]."""
        x = self.policy.encoder.embed(observations).permute(1, 0, 2).contiguous()
        block: EncoderBlock
        for attention, block in zip(self.encoder_attention, self.policy.encoder.blocks):
            x = block.attention_norm(x + attention(x, x, relation, graph))
            x = block.norm(x + block.contract(F.relu(block.expand(x))))
        rep = x.permute(1, 0, 2).contiguous()
        return rep, self.policy.critic(rep)

    def logits(self, tokens: Tensor, rep: Tensor, relation: Tensor, graph: Tensor) -> Tensor:
        """[B, n, A] of one-hot tokens [B, n, A + 1]."""
        x = self.policy.actions(tokens)
        block: DecoderBlock
        for own, cross, block in zip(self.own, self.cross, self.policy.decoder):
            first = x.permute(1, 0, 2).contiguous()
            x = block.own_norm(x + own(first, first, relation, graph).permute(1, 0, 2).contiguous())
            query, source = rep.permute(1, 0, 2).contiguous(), x.permute(1, 0, 2).contiguous()
            y = block.cross_norm(rep + cross(query, source, relation, graph).permute(1, 0, 2).contiguous())
            x = block.norm(y + block.contract(F.gelu(block.expand(y))))
        return torch.stack([self.head(i, x[:, i]) for i in range(self.agents)], dim=1)

    def head(self, i: int, x: Tensor) -> Tensor:
        """Logits [B, A] of one agent."""
        heads = self.policy.heads
        assert isinstance(heads, AgentHeads)
        width = x.shape[-1:]
        x = F.layer_norm(x, width, heads.norm_weight[i], heads.norm_bias[i])
        x = F.gelu(F.linear(x, heads.hidden_weight[i].T, heads.hidden_bias[i]))
        x = F.layer_norm(x, width, heads.out_norm_weight[i], heads.out_norm_bias[i])
        return F.linear(x, heads.out_weight[i].T, heads.out_bias[i])

    @torch.no_grad()
    def act(self, observations: Tensor, graph: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(actions, log-probabilities, values) [B, n], drawn with Gumbel ``noise`` [B, n, A]."""
        batch = len(observations)
        relation, mask = self.relations(graph, batch)
        rep, values = self.encode(observations, relation, mask)
        tokens = torch.zeros(batch, self.agents, self.count + 1, device=rep.device)
        tokens[:, 0, 0] = 1
        actions = torch.zeros(batch, self.agents, dtype=torch.long, device=rep.device)
        log_probs = torch.zeros(batch, self.agents, device=rep.device)
        for i in range(self.agents):
            logits = self.logits(tokens, rep, relation, mask)[:, i]
            action = (logits + noise[:, i]).argmax(-1)
            actions[:, i] = action
            log_probs[:, i] = logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)
            if i + 1 < self.agents:
                tokens[:, i + 1, 1:] = F.one_hot(action, self.count).to(tokens)
        return actions, log_probs, values

    def evaluate(self, observations: Tensor, actions: Tensor, graph: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(log-probabilities, entropies, values) [B, n] of ``actions``."""
        batch = len(observations)
        relation, mask = self.relations(graph, batch)
        rep, values = self.encode(observations, relation, mask)
        tokens = torch.zeros(batch, self.agents, self.count + 1, device=rep.device)
        tokens[:, 0, 0] = 1
        tokens[:, 1:, 1:] = F.one_hot(actions, self.count)[:, :-1].to(tokens)
        distribution = torch.distributions.Categorical(logits=self.logits(tokens, rep, relation, mask))
        return distribution.log_prob(actions), distribution.entropy(), values
