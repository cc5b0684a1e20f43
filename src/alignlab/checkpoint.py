"""A training loop's state on disk: killed at any moment, run again, it ends bit for bit where it would have ended.

A checkpoint holds the reader's objects and the random numbers of Python, NumPy and torch. It is replaced atomically,
checked by its SHA-256, and read without unpickling code.
"""

import copy
import hashlib
import io
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

_MAGIC = b"alignlab checkpoint 1\n"
_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)


@dataclass(frozen=True)
class Adapter:
    """Makes anything checkpointable: `save()` returns plain data or tensors, `load(data)` puts them back."""

    save: Callable[[], Any]
    load: Callable[[Any], object]

    def state_dict(self) -> Any:
        return self.save()

    def load_state_dict(self, data: Any) -> None:
        self.load(data)


def trainable(module: torch.nn.Module) -> Adapter:
    """The parameters of `module` that require gradients, and nothing else: what a LoRA run needs to keep."""

    def save() -> dict[str, torch.Tensor]:
        return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}

    def load(data: dict[str, torch.Tensor]) -> None:
        parameters = save()
        if parameters.keys() != data.keys():
            raise ValueError(f"other parameters are trainable now: {sorted(parameters.keys() ^ data.keys())[:3]}")
        for name, parameter in parameters.items():
            parameter.copy_(data[name])

    return Adapter(save, load)


class Checkpoint:
    """The state of one loop in one file.

    holders: name -> model, optimizer, anything with state_dict and load_state_dict, or a dict, list, tensor, array or
        random generator, which is filled in place.
    fingerprint: what the run depends on (plain data); a file with another fingerprint is not resumed.
    every: steps between two saves.
    Raises TypeError at once for a holder that could not be put back.
    """

    def __init__(self, path: Path, holders: Mapping[str, Any], fingerprint: Mapping[str, Any], every: int = 10) -> None:
        if every < 1:
            raise ValueError(f"every is {every}; save every 1 step or more")
        self.path, self.every, self._refused = path, every, False
        self.holders = {name: _holder(holder, name) for name, holder in holders.items()}
        self.fingerprint: dict[str, Any] = json.loads(json.dumps(dict(fingerprint)))
        self._state()

    def _state(self) -> dict[str, Any]:
        return {name: _plain(holder.state_dict(), name) for name, holder in self.holders.items()}

    def save(self, step: int) -> bool:
        """Keep the state after `step` finished steps. A disk that refuses is said once, and costs no work: False."""
        buffer = io.BytesIO()
        kept = {"step": step, "fingerprint": self.fingerprint, "random": random_state(), "state": self._state()}
        torch.save(kept, buffer)
        body = buffer.getbuffer()
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(_MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n")
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            if not self._refused:
                print(f"Could not save to {self.path.parent} ({error.strerror}): the loop goes on without saving.")
            self._refused = True
            return False
        return True

    def resume(self) -> tuple[int, str]:
        """Put the kept state back; returns the finished steps (0: a fresh start) and what to tell the reader."""
        if not self.path.exists():
            return 0, ""
        try:
            kept = self._read()
        except Exception as error:  # a damaged file fails in many ways; each means the same to the reader
            return 0, f"The saved state is damaged ({error}); starting afresh."
        changed = _difference(kept["fingerprint"], self.fingerprint)
        if changed:
            return 0, f"The saved state is of another run ({changed}); starting afresh."
        before = copy.deepcopy(self._state())
        try:
            if kept["state"].keys() != self.holders.keys():
                raise ValueError(f"it holds {', '.join(kept['state'])}, not {', '.join(self.holders)}")
            self._put_back(kept["state"])
        except Exception as error:
            self._put_back(before)
            return 0, f"The saved state does not fit ({str(error).splitlines()[0]}); starting afresh."
        set_random_state(kept["random"])
        return int(kept["step"]), ""

    def discard(self) -> None:
        """Forget the kept state, so that the loop starts afresh."""
        for kept in [self.path, *self.path.parent.glob(f"{self.path.name}.*.tmp")]:
            with suppress(OSError):
                kept.unlink()

    def _put_back(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, holder in self.holders.items():
                holder.load_state_dict(state[name])

    def _read(self) -> dict[str, Any]:
        content = self.path.read_bytes()
        digest, start = content[len(_MAGIC) :][:64], len(_MAGIC) + 65
        if not content.startswith(_MAGIC):
            raise ValueError("not a checkpoint of this version")
        if hashlib.sha256(memoryview(content)[start:]).hexdigest().encode() != digest:
            raise ValueError("its checksum is wrong")
        return torch.load(io.BytesIO(memoryview(content)[start:]), map_location="cpu", weights_only=True)


def random_state() -> dict[str, Any]:
    """The random numbers to come, of Python, NumPy, torch and every GPU, as plain data and tensors."""
    name, keys, *rest = np.random.get_state()
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Undo `random_state`. A GPU that is not here any more is left out."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


@contextmanager
def same_random_numbers_after() -> Iterator[None]:
    """Whatever is drawn inside leaves no trace: the next random numbers are those that would have come without it."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


def _holder(value: Any, name: str) -> Any:
    """`value` itself if it has state_dict and load_state_dict, else an adapter that fills it in place."""
    if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        return value
    if isinstance(value, list):
        return Adapter(lambda: value, lambda data: value.__setitem__(slice(None), data))
    if isinstance(value, dict):
        return Adapter(lambda: value, lambda data: _refill(value, data))
    if isinstance(value, torch.Tensor):
        return Adapter(value.detach, value.detach().copy_)
    if isinstance(value, torch.Generator):
        return Adapter(value.get_state, value.set_state)
    if isinstance(value, np.ndarray):
        return Adapter(lambda: torch.from_numpy(value), lambda data: np.copyto(value, data.numpy()))
    if isinstance(value, np.random.Generator):
        generator = value.bit_generator
        return Adapter(lambda: generator.state, lambda data: setattr(generator, "state", data))
    if isinstance(value, random.Random):
        return Adapter(value.getstate, value.setstate)
    raise TypeError(
        f"the checkpoint cannot put {name!r} back: a {type(value).__name__} cannot be changed in place. "
        f"Keep it in a dict or a list, or wrap it in checkpoint.Adapter(save, load)"
    )


def _refill(kept: dict[Any, Any], data: Mapping[Any, Any]) -> None:
    kept.clear()
    kept.update(data)


def _plain(value: Any, where: str) -> Any:
    """`value` made of tensors, numbers, strings, lists, tuples, sets and dicts: what is read back without running code.

    Raises TypeError, naming the place, for anything else.
    """
    if value is None or type(value) in _PLAIN or isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {_plain(key, f"a key of {where}"): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(_plain(item, f"an item of {where}") for item in value)
    raise TypeError(f"{where} is a {type(value).__name__}; a checkpoint keeps tensors and plain Python data")


def _difference(kept: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The entries that differ, as `beta 0.1, now 0.2; …`."""
    names = [name for name in {**kept, **now} if kept.get(name, "none") != now.get(name, "none")]
    return "; ".join(f"{name} {kept.get(name, 'none')}, now {now.get(name, 'none')}" for name in names)
