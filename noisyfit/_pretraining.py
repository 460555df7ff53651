"""Where the layers below the last one start: from scratch, or from an encoder trained before."""

import os
from collections.abc import Mapping

import torch
from torch import nn

from noisyfit._head import last_linear

_COUNTER = "num_batches_tracked"  # older files lack it


def check_pretrain(pretrain):
    """Refuse what cannot give an encoder."""
    if isinstance(pretrain, str | os.PathLike):
        if not os.path.isfile(pretrain):
            raise ValueError(f"pretrain={str(pretrain)!r} is no file.")
        return
    known = isinstance(pretrain, Mapping | nn.Module) or pretrain is None
    makes_one = hasattr(pretrain, "encoder_") or hasattr(pretrain, "encoder_for")
    if isinstance(pretrain, type) or not (known or makes_one):
        raise TypeError(
            "pretrain must be SimCLR(...), something fitted that has an encoder_, a module, a "
            f"state dict, the path of one, or None; got {pretrain!r}."
        )


def start_pretrained(pretrain, run, net, shape, seed):
    """Let all networks of `run` start from one encoder; their last layers stay as drawn.

    `net` is what they were built from, `shape` that of a row and `seed` that of a training.
    """
    x = run.plain(next(iter(run.data.batches(32))).x.clone())
    modules = [learner.module for learner in run.learners]
    layers = [below_head(module, x)[1] for module in modules]

    def matched(state):
        return [match(m, keys, state) for m, keys in zip(modules, layers, strict=True)]

    if hasattr(pretrain, "encoder_"):
        state = pretrain.encoder_.state_dict()
    elif hasattr(pretrain, "encoder_for"):
        state = pretrain.encoder_for(run, net, shape, seed, check=matched).state_dict()
    else:
        state = given_state(pretrain)
    for module, entries in zip(modules, matched(state), strict=True):
        module.load_state_dict(entries, strict=False)


def below_head(module, x):
    """Name of the last layer of `module`, and keys of its state dict that lie below; `x` is a
    batch to try it on."""
    training = module.training
    name, _ = last_linear(module.eval(), x)
    module.train(training)
    keys = [] if name is None else [k for k in module.state_dict() if not k.startswith(f"{name}.")]
    if not name or not keys:
        raise ValueError(
            "Pre-training is for the layers below the last torch.nn.Linear; "
            f"{type(module).__name__} does not end in one, or has none below it. Modules such as "
            "those of noisyfit.modules do."
        )
    return name, keys


def given_state(pretrain):
    """Tensors by name, of a module, of a state dict, or from a file."""
    if isinstance(pretrain, nn.Module):
        return pretrain.state_dict()
    state = pretrain if isinstance(pretrain, Mapping) else read(pretrain)
    return {k: v for k, v in state.items() if isinstance(k, str) and torch.is_tensor(v)}


def read(path):
    """The state dict in a file."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, whatever the file is
        raise ValueError(f"pretrain: {path} holds no state dict.") from error
    if not isinstance(state, Mapping):
        raise ValueError(f"pretrain: {path} holds no state dict.")
    return state


def match(module, wanted, state):
    """Entries of `state` under the keys `wanted` of `module`; refused if they do not fit."""
    own = module.state_dict()
    theirs, ours = prefixes(wanted, state)
    found = {k: state.get(theirs + k.removeprefix(ours)) for k in wanted}
    for key, value in found.items():
        if value is None and not key.endswith(_COUNTER):
            raise ValueError(
                f"pretrain holds another network than {type(module).__name__}: it has no {key!r}."
            )
        if value is not None and value.shape != own[key].shape:
            raise ValueError(
                f"pretrain holds another network than {type(module).__name__}: {key!r} has shape "
                f"{tuple(value.shape)}, not {tuple(own[key].shape)}."
            )
    return {k: v for k, v in found.items() if v is not None}


def prefixes(wanted, state):
    """Prefixes of the keys in `state` and of the `wanted` ones by which the two differ.

    Such as ``"module."`` and ``"body."``; empty ones if nothing fits.
    """
    needed = [key for key in wanted if not key.endswith(_COUNTER)]
    parts = needed[0].split(".")
    for i in range(len(parts)):
        tail = ".".join(parts[i:])
        ours = needed[0].removesuffix(tail)
        for theirs in [key.removesuffix(tail) for key in state if key.endswith(tail)]:
            if all(k.startswith(ours) and theirs + k.removeprefix(ours) in state for k in needed):
                return theirs, ours
    return "", ""
