"""Where random draws happen."""

import hashlib

import torch


def where(generator):
    """Keywords of a torch factory that draws from `generator`, never from the global one."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {generator!r}.")
    return {"generator": generator, "device": generator.device}


def on_host(generator):
    """A generator for draws on the host: `generator` itself, or one that follows from it.

    The state of a generator lies on the host whatever its device, so that nothing is waited for.
    """
    options = where(generator)
    if options["device"].type == "cpu":
        return generator
    torch.rand(1, **options)  # moves the state, so that the next one differs
    state = generator.get_state().numpy().tobytes()
    seed = int.from_bytes(hashlib.blake2b(state, digest_size=7).digest())
    return torch.Generator().manual_seed(seed)
