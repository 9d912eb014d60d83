"""Where the parameters of a golden file live in our stacked networks."""

from __future__ import annotations

import re

from torch import Tensor, nn

from phalanx.algorithms.qtran_base import QTRANBase
from phalanx.algorithms.value_mixing import ValueMixing

_AGENT = {
    "fc1.weight": "fc1.weight",
    "fc1.bias": "fc1.bias",
    "gru.weight_ih": "input_gates.weight",
    "gru.bias_ih": "input_gates.bias",
    "gru.weight_hh": "recurrent_gates.weight",
    "gru.bias_hh": "recurrent_gates.bias",
    "fc2.weight": "fc2.weight",
    "fc2.bias": "fc2.bias",
}
_MIXER = {"hyper_w1.2": "hyper_first", "hyper_wf.2": "hyper_last", "V.2": "value"}
_STATE_LAYERS = ("hyper_w1.0", "hyper_wf.0", "hyper_b1", "V.0")  # in the order of QMixer.state_layers' rows
_GROUPS = {
    "agent": "agents",
    "mixer": "mixer",
    "central_agent": "central_agents",
    "central_mixer": "central_mixer",
}
_AS_THEY_ARE = ("central_mixer", "joint")  # unstacked, and their layers named as in the files


class Unmapped(Exception):
    """A key of the file has no counterpart."""


def parameter_keys(files: list[str]) -> list[str]:
    """The keys that are parameters, online and target."""
    return [key for key in files if key.removeprefix("target_").split("/")[0] in _GROUPS]


def slot(algorithm: ValueMixing, key: str, *, grad: bool = False) -> Tensor:
    """The part of our parameters (or of their gradients) that `<group>/<name>` stands for, as a view."""
    group, name = key.split("/", 1)
    plain = group.removeprefix("target_")
    if plain not in _GROUPS:
        raise Unmapped(f"{key}: no such group of parameters")
    attribute = "joint" if plain == "mixer" and isinstance(algorithm, QTRANBase) else _GROUPS[plain]
    module = getattr(algorithm, ("target_" if plain != group else "") + attribute, None)
    if not isinstance(module, nn.Module):
        raise Unmapped(f"{key}: {type(algorithm).__name__} has no {group}")
    member = re.match(r"[kh](\d+)\.", name)
    index = int(member.group(1)) if member else 0
    path, rows = _place(module, attribute, name[member.end() :] if member else name, key)
    parameter = dict(module.named_parameters()).get(path)
    if parameter is None:
        raise Unmapped(f"{key}: no parameter {path}")
    tensor = parameter.grad if grad else parameter.data
    if tensor is None:
        raise Unmapped(f"{key}: has no gradient")
    if attribute in _AS_THEY_ARE:
        return tensor
    if index >= tensor.shape[0]:
        raise Unmapped(f"{key}: there are only {tensor.shape[0]} members")
    return tensor[index] if rows is None else tensor[index, rows]


def _place(module: nn.Module, attribute: str, name: str, key: str) -> tuple[str, slice | None]:
    if attribute in _AS_THEY_ARE:
        return name, None
    if attribute in ("agents", "central_agents"):
        if name not in _AGENT:
            raise Unmapped(f"{key}: unknown agent parameter")
        return _AGENT[name], None
    layer, kind = name.rsplit(".", 1)
    if layer in _STATE_LAYERS:
        splits = module.splits
        start = sum(splits[: _STATE_LAYERS.index(layer)])
        return f"state_layers.{kind}", slice(start, start + splits[_STATE_LAYERS.index(layer)])
    if layer not in _MIXER:
        raise Unmapped(f"{key}: unknown mixer parameter")
    return f"{_MIXER[layer]}.{kind}", None
