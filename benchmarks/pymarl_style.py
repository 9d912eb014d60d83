"""What the learner is compared with: QMIX updated the way PyMARL does it, one GRU cell call per time step.

Written for the benchmark, after the published method: agents are stepped from t = 0 with inputs concatenated at every
step, online and target, all padded steps included; mixers work on all steps at once with batched products.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from phalanx.algorithms.base import TensorBatch


class CellAgent(nn.Module):
    def __init__(self, inputs: int, hidden: int, actions: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.rnn = nn.GRUCell(hidden, hidden)
        self.fc2 = nn.Linear(hidden, actions)

    def forward(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        h = self.rnn(functional.relu(self.fc1(inputs)), hidden)
        return self.fc2(h), h


class HyperMixer(nn.Module):
    def __init__(self, agents: int, state: int, embed: int, hypernet: int) -> None:
        super().__init__()
        self.agents, self.embed, self.state = agents, embed, state
        self.w1 = nn.Sequential(nn.Linear(state, hypernet), nn.ReLU(), nn.Linear(hypernet, agents * embed))
        self.wf = nn.Sequential(nn.Linear(state, hypernet), nn.ReLU(), nn.Linear(hypernet, embed))
        self.b1 = nn.Linear(state, embed)
        self.v = nn.Sequential(nn.Linear(state, embed), nn.ReLU(), nn.Linear(embed, 1))

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        batch = q.size(0)
        state, q = state.reshape(-1, self.state), q.reshape(-1, 1, self.agents)
        w1 = self.w1(state).abs().view(-1, self.agents, self.embed)
        hidden = functional.elu(torch.bmm(q, w1) + self.b1(state).view(-1, 1, self.embed))
        final = self.wf(state).abs().view(-1, self.embed, 1)
        return (torch.bmm(hidden, final) + self.v(state).view(-1, 1, 1)).view(batch, -1)


class PyMARLStyleLearner:
    """QMIX with double-Q, RMSprop and gradient clipping."""

    def __init__(self, obs: int, state: int, agents: int, actions: int, hidden: int = 64) -> None:
        self.n, self.actions, self.hidden = agents, actions, hidden

        def make() -> nn.ModuleList:
            agent = CellAgent(obs + actions + agents, hidden, actions)
            return nn.ModuleList([agent, HyperMixer(agents, state, 32, 64)])

        self.online, self.target = make(), make()
        self.parameters = list(self.online.parameters())
        self.optimiser = torch.optim.RMSprop(self.parameters, lr=5e-4, alpha=0.99, eps=1e-5)

    def _unroll(self, agent: nn.Module, batch: TensorBatch) -> Tensor:
        episodes, steps = batch.obs.shape[:2]
        hidden = batch.obs.new_zeros(episodes * self.n, self.hidden)
        onehot = functional.one_hot(batch.actions, self.actions).to(batch.obs.dtype)
        ids = torch.eye(self.n).unsqueeze(0).expand(episodes, -1, -1)
        outputs = []
        for t in range(steps):
            last = onehot[:, t - 1] if t > 0 else torch.zeros_like(onehot[:, 0])
            inputs = torch.cat([batch.obs[:, t], last, ids], dim=-1).view(episodes * self.n, -1)
            q, hidden = agent(inputs, hidden)
            outputs.append(q.view(episodes, self.n, -1))
        return torch.stack(outputs, dim=1)

    def update(self, batch: TensorBatch) -> float:
        """One update; returns the loss."""
        values = self._unroll(self.online[0], batch)
        chosen = values[:, :-1].gather(3, batch.actions.unsqueeze(3)).squeeze(3)
        target_values = self._unroll(self.target[0], batch)[:, 1:].detach()
        target_values[~batch.avail[:, 1:]] = -9999999
        detached = values.clone().detach()
        detached[~batch.avail] = -9999999
        best = detached[:, 1:].max(dim=3, keepdim=True)[1]
        q_tot = self.online[1](chosen, batch.state[:, :-1])
        next_tot = self.target[1](target_values.gather(3, best).squeeze(3), batch.state[:, 1:])
        y = batch.reward + 0.99 * (1 - batch.terminated.float()) * next_tot
        mask = batch.filled[:, :-1].float()
        mask[:, 1:] = mask[:, 1:] * (1 - batch.terminated[:, :-1].float())
        error = (q_tot - y.detach()) * mask
        loss = (error**2).sum() / mask.sum()
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 10)
        self.optimiser.step()
        return float(loss.item())
