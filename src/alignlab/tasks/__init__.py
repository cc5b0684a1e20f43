"""Problems with verifiers: what a model is asked, and how its answer is judged by a rule.

Knows nothing about models. Each module makes its own small world, the same on every machine.
"""

import hashlib
from typing import Literal

Split = Literal["train", "held-out"]


def held_out(key: str, share: float) -> bool:
    """Whether what this key names is kept from training: a fixed `share` (0 to 1) of all keys, chosen by their hash."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") < share * 2**64
