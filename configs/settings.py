"""Every setting of a run (of a search: search_settings.py): type, range, default, meaning. The one home of these facts.

`env` and `algorithm` are sections whose models live beside the environment and the algorithm; the registries say
which model a `name` stands for (see `phalanx.configs.load`).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, model_validator

from phalanx.configs import both_sides, on_policy
from phalanx.configs.base import Settings
from phalanx.configs.noise_settings import NoiseSettings

Device = Literal["auto", "cpu", "cuda"]


class EnvSettings(Settings):
    """What every environment understands; each environment's own settings extend this."""

    name: str = Field(description="which environment; `phalanx list envs` names them")
    max_steps: int = Field(default=25, ge=1, description="steps after which an episode is cut off (truncated)")
    timeout_is_terminal: bool = Field(
        default=False,
        description="treat the time limit as a real end (the papers' SMAC behaviour): targets do not bootstrap past it",
    )
    noise: NoiseSettings = Field(default=NoiseSettings(), description="noise on what is seen, paid and done")

    def for_pictures(self) -> EnvSettings:
        """Of the same environment, made so that it can be drawn: for those whom that costs something."""
        return self

    @property
    def learning_opponents(self) -> bool:
        """Whether the other side learns as well, as a part of the team that is paid for itself."""
        return False

    @property
    def most_evaluation_envs(self) -> int | None:
        """Environments that an evaluation may step together; None where they are light enough for any number."""
        return None


class AlgorithmSettings(Settings):
    """What every algorithm understands; each algorithm's own settings extend this."""

    on_policy: ClassVar[bool] = False
    """Whether it learns from what its present policy plays, and from every episode once."""
    rewards_key: ClassVar[str | None] = None
    """Which of its settings says whose rewards it learns from; None: always the team's."""

    name: str = Field(description="which algorithm; `phalanx list algorithms` names them")
    lr: float = Field(default=5e-4, gt=0, description="learning rate")
    gamma: float = Field(default=0.99, ge=0, le=1, description="discount per step")
    optimiser: Literal["rmsprop", "adam"] = Field(
        default="rmsprop", description="rmsprop (smoothing 0.99, epsilon 1e-5, as in PyMARL) or adam"
    )
    grad_norm_clip: float = Field(default=10.0, gt=0, description="L2 norm to which all gradients together are cut")


class HyperSettings(Settings):
    """Which layers of an agent network a hypernetwork generates, and from what."""

    base: Literal["mlp", "gru"] = Field(default="mlp", description="the agent network whose layers are generated")
    layers: Literal["all"] | list[str] = Field(
        default="all",
        description="layers that are generated, the others are shared: all, or a list of fc1, fc2, … (base: mlp) or of"
        " fc1, input_gates, recurrent_gates, fc2 (base: gru)",
    )
    bias: bool = Field(
        default=False, description="hyper_linear: a learned offset that all agents share is added to what is generated"
    )
    embedding: int = Field(default=4, ge=1, description="hyper_mlp: size of each agent's learned embedding")
    width: int = Field(default=64, ge=1, description="hyper_mlp: width of the hypernetworks' hidden layer")


class AttentionSettings(Settings):
    heads: int | None = Field(
        default=None,
        ge=1,
        description="attention heads; null: 3 (updet, each as wide as agent.hidden) or 4 (atm, which share that width)",
    )
    blocks: int = Field(default=2, ge=1, description="updet: transformer blocks")
    slots: int = Field(default=3, ge=1, description="atm: past states that are remembered")


class AgentSettings(Settings):
    network: Literal["gru", "mlp", "hyper_linear", "hyper_mlp", "asn", "updet", "atm"] = Field(
        default="gru",
        description="gru (PyMARL's agent), mlp (no memory), hyper_linear and hyper_mlp (HyperMARL: each agent's weights"
        " are generated from its identity), or, where the environment says who is who in what is seen, asn, updet, atm",
    )
    sharing: Literal["full", "full_id", "groups", "none"] = Field(
        default="full_id",
        description="which agents share parameters: full (all), full_id (all, who see their own id as well), groups"
        " (each of the environment's groups), none. With hyper_*: who shares an identity (docs/agent-networks.md)",
    )
    last_action: bool = Field(default=True, description="agents see their own last action")
    hidden: int = Field(default=64, ge=1, description="width of the agent network: its layers, GRU, tokens")
    depth: int = Field(default=2, ge=1, description="hidden layers of an mlp (also as the base of hyper_*)")
    hyper: HyperSettings = Field(default=HyperSettings(), description="hyper_linear and hyper_mlp")
    attention: AttentionSettings = Field(default=AttentionSettings(), description="updet and atm")

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> AgentSettings:
        hyper, attention = self.network.startswith("hyper_"), self.network in ("updet", "atm")
        used = {
            "depth": self.network == "mlp" or (hyper and self.hyper.base == "mlp"),
            "hyper.base": hyper,
            "hyper.layers": hyper,
            "hyper.bias": self.network == "hyper_linear",
            "hyper.embedding": self.network == "hyper_mlp",
            "hyper.width": self.network == "hyper_mlp",
            "attention.heads": attention,
            "attention.blocks": self.network == "updet",
            "attention.slots": self.network == "atm",
        }
        for key, has_effect in used.items():
            section, _, field = key.rpartition(".")
            given: Settings = getattr(self, section) if section else self
            if not has_effect and getattr(given, field) != type(given).model_fields[field].default:
                raise ValueError(
                    f"agent.{key}={getattr(given, field)} has no effect with agent.network={self.network}: leave it at"
                    f" {type(given).model_fields[field].default}, or choose a network that has it"
                )
        return self

    @model_validator(mode="after")
    def _layers_exist(self) -> AgentSettings:
        layers, names = self.hyper.layers, self.base_layers
        wrong = [] if layers == "all" else [name for name in layers if name not in names]
        if wrong or layers == []:
            raise ValueError(
                f"agent.hyper.layers={layers} must be all, or a list of some of {', '.join(names)}: the layers of"
                f" agent.hyper.base={self.hyper.base} here"
            )
        heads = self.attention.heads or 4
        if self.network == "atm" and self.hidden % heads:
            raise ValueError(
                f"agent.hidden={self.hidden} cannot be shared by {heads} attention heads: make it a multiple of"
                " agent.attention.heads"
            )
        return self

    @property
    def base_layers(self) -> tuple[str, ...]:
        """Names of the layers that a hypernetwork could generate."""
        if self.hyper.base == "gru":
            return ("fc1", "input_gates", "recurrent_gates", "fc2")
        return tuple(f"fc{k + 1}" for k in range(self.depth + 1))


class MixerSettings(Settings):
    embed: int = Field(default=32, ge=1, description="width of the mixing layer")
    hypernet: int = Field(default=64, ge=1, description="width of the hypernetworks' hidden layer")


class LearnerSettings(Settings):
    batch_episodes: int = Field(
        default=32,
        ge=1,
        description="episodes in one update; on-policy methods take rollout.streams x rollout.envs_per_stream if it is"
        " not given",
    )
    device: Device = Field(default="auto", description="where updates run; auto takes a GPU where the learner has one")
    threads: int = Field(
        default=1, ge=1, description="torch threads of the learner in async mode; sync mode always uses one"
    )


class ReplaySettings(Settings):
    samples_per_insert: float = Field(
        default=32.0,
        gt=0,
        description="episodes sampled for each episode inserted: how often data is learned from, whatever the number of"
        " workers (32 with batches of 32: one update per episode); on-policy methods take 1",
    )
    capacity_episodes: int = Field(
        default=5000,
        ge=1,
        description="episodes kept; the oldest make room; on-policy methods take what their queue needs",
    )
    capacity_bytes: int | None = Field(
        default=None, ge=1, description="upper limit of the memory for episodes; fewer are kept where it is reached"
    )
    min_episodes: int = Field(
        default=32, ge=1, description="episodes to collect before the first update; without effect on-policy"
    )
    storage: Literal["float32", "float16"] = Field(
        default="float32", description="type in which observations and states are kept; float16 halves the memory"
    )
    sampling: Literal["uniform", "prioritised", "once"] = Field(
        default="uniform",
        description="uniform: all episodes alike; prioritised: those with large temporal-difference errors more often;"
        " once: each episode exactly once, oldest first, which is what on-policy methods take and only they",
    )
    priority_exponent: float = Field(
        default=0.6,
        ge=0,
        le=1,
        description="α of prioritised sampling: probability ∝ error^α, where an episode's error is 0.9 · max + 0.1 ·"
        " mean over its steps; 0 draws uniformly",
    )
    importance_exponent: float = Field(
        default=0.4,
        ge=0,
        le=1,
        description="β of prioritised sampling: how far the loss is corrected for it; 0 not at all, 1 fully; constant",
    )

    @model_validator(mode="after")
    def _exponents_have_an_effect(self) -> ReplaySettings:
        for key in ("priority_exponent", "importance_exponent"):
            given, default = getattr(self, key), type(self).model_fields[key].default
            if self.sampling != "prioritised" and given != default:
                raise ValueError(
                    f"replay.{key}={given} has no effect with replay.sampling={self.sampling}: leave it at {default},"
                    " or set replay.sampling=prioritised"
                )
        return self


class RolloutSettings(Settings):
    streams: int = Field(
        default=2,
        ge=1,
        description="independent vectors of environments; part of learning (the same seed gives the same run on any"
        " number of workers), so change `cluster.workers`, not this, to use more machines",
    )
    envs_per_stream: int = Field(default=16, ge=1, description="environments stepped together in one stream")


class ExplorationSettings(Settings):
    start: float = Field(default=1.0, ge=0, le=1, description="probability of a random action at the beginning")
    end: float = Field(default=0.05, ge=0, le=1, description="probability of a random action in the end")
    env_steps: int = Field(default=50_000, ge=0, description="env steps over which it falls, linearly")


class EvaluationSettings(Settings):
    every_env_steps: int = Field(default=100_000, ge=1, description="env steps between greedy evaluations")
    episodes: int = Field(default=32, ge=1, description="episodes of each evaluation; always the same seeds")


class CheckpointSettings(Settings):
    every_env_steps: int = Field(default=500_000, ge=1, description="env steps between checkpoints")
    keep: int = Field(default=2, ge=1, description="newest checkpoints that are kept")
    replay: Literal["all", "none"] = Field(
        default="all", description="whether checkpoints hold the replay; without it a resumed run is not identical"
    )


class ReportSettings(Settings):
    every_s: float = Field(default=2.0, gt=0, description="seconds between reports in async mode")
    every_env_steps: int = Field(default=10_000, ge=1, description="env steps between reports in sync mode")


class WandbSettings(Settings):
    project: str = Field(default="phalanx", description="Weights & Biases project")
    entity: str | None = Field(default=None, description="Weights & Biases team or user")
    mode: Literal["online", "offline"] = Field(
        default="offline", description="offline writes below the run folder only"
    )


class SinkSettings(Settings):
    tensorboard: bool = Field(default=False, description="write TensorBoard event files below the run folder")
    wandb: WandbSettings | None = Field(default=None, description="send metrics to Weights & Biases")
    clip_every_evaluations: int | None = Field(
        default=None,
        ge=1,
        description="a greedy episode as a moving picture for TensorBoard and Weights & Biases, with one evaluation in"
        " so many, from the first one on, and with the last; null: none",
    )

    @model_validator(mode="after")
    def _somebody_takes_clips(self) -> SinkSettings:
        if self.clip_every_evaluations is not None and not self.tensorboard and self.wandb is None:
            raise ValueError(
                f"sinks.clip_every_evaluations={self.clip_every_evaluations} has no effect without a place for clips:"
                " set sinks.tensorboard=true or sinks.wandb={}, or leave it out (`phalanx evaluate DIR --gif FILE`"
                " makes a film of any run)"
            )
        return self


class ClusterSettings(Settings):
    """Resources: nothing here changes what is learned in sync mode."""

    workers: int = Field(default=1, ge=1, description="rollout workers; they share the streams")
    worker_cpus: float = Field(
        default=0.001, ge=0, description="CPUs reserved for each worker; the small default starts any number anywhere"
    )
    learner_gpus: float = Field(default=0.0, ge=0, description="GPUs reserved for the learner")
    learner_cpus: float = Field(default=0.001, ge=0, description="CPUs reserved for the learner")
    address: str | None = Field(
        default=None,
        description="Ray cluster to join; null: RAY_ADDRESS where it is set, otherwise Ray on this machine",
    )


class NetworkSettings(Settings):
    """The network sections together: what an algorithm is built with, besides its own."""

    agent: AgentSettings = AgentSettings()
    mixer: MixerSettings = MixerSettings()
    input_noise: float = 0.0  # env.noise.demar


class RunSettings(Settings):
    """One run, complete: together with the code's version and the machine it decides a sync run to the bit."""

    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of the whole run")
    mode: Literal["sync", "async"] = Field(
        default="async",
        description="sync: rounds of whole episodes, bit-identical on any number of workers; async: all overlaps",
    )
    total_env_steps: int = Field(default=1_000_000, ge=1, description="env steps to train for")
    env: SerializeAsAny[EnvSettings] = Field(description="the environment and its own settings")
    algorithm: SerializeAsAny[AlgorithmSettings] = Field(description="the algorithm and its own settings")
    agent: AgentSettings = Field(default=AgentSettings(), description="the agent network")
    mixer: MixerSettings = Field(
        default=MixerSettings(), description="the mixing network; without effect on methods that have none"
    )
    learner: LearnerSettings = Field(default=LearnerSettings(), description="the learner")
    replay: ReplaySettings = Field(default=ReplaySettings(), description="the replay")
    rollout: RolloutSettings = Field(default=RolloutSettings(), description="data collection")
    exploration: ExplorationSettings = Field(
        default=ExplorationSettings(),
        description="random actions while training (on-policy methods draw from their policies instead)",
    )
    evaluation: EvaluationSettings = Field(default=EvaluationSettings(), description="greedy evaluation")
    checkpoint: CheckpointSettings = Field(default=CheckpointSettings(), description="checkpoints")
    report: ReportSettings = Field(default=ReportSettings(), description="metrics")
    sinks: SinkSettings = Field(default=SinkSettings(), description="where metrics go besides metrics.jsonl")
    cluster: ClusterSettings = Field(default=ClusterSettings(), description="resources; never learning")

    @property
    def networks(self) -> NetworkSettings:
        return NetworkSettings(agent=self.agent, mixer=self.mixer, input_noise=self.env.noise.demar)

    @model_validator(mode="before")
    @classmethod
    def _follow_the_algorithm(cls, data: Any) -> Any:
        return on_policy.filled(data, RolloutSettings)

    @property
    def least_capacity(self) -> int:
        """Episodes for which the replay needs room."""
        batch = self.learner.batch_episodes
        return on_policy.least_capacity(batch, self.rollout.envs_per_stream) if self.algorithm.on_policy else batch

    @model_validator(mode="after")
    def _sections_suit_the_algorithm(self) -> RunSettings:
        problem = on_policy.problem(self) or both_sides.problem(self)
        if problem is not None:
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _replay_holds_a_batch(self) -> RunSettings:
        if self.replay.capacity_episodes < self.learner.batch_episodes:
            raise ValueError(
                f"replay.capacity_episodes={self.replay.capacity_episodes} is less than"
                f" learner.batch_episodes={self.learner.batch_episodes}: the replay could never hold a batch;"
                " raise the one or lower the other"
            )
        return self
