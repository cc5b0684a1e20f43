"""A DPO step on SmolLM2 with LoRA: ours, the library's quickest way, beside trl's DPOTrainer, in one run of trl's.

trl's own loop runs; a callback takes our step on the very tensors of each batch right after trl's. So the two
alternate, both start from the same adapter, and both loss curves are over the same batches in the same order.
"""

import copy
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from measure import Comparison, peak_memory
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer

from alignlab import compute, logprobs, text
from alignlab.losses.preference import PairLogps, dpo_loss

CPU = torch.device("cpu")
PAIRS, BETA, LEARNING_RATE, WARM_UP = 4, 0.2, 1e-4, 2
SUBJECTS = """the capital of Spain | the colour of snow | the largest planet | the opposite of big
a fruit that is yellow | the language of France | the first month of the year | the animal that barks
the currency of Japan | the sum of 17 and 25 | the longest river | a synonym for happy | the boiling point of water
the home of the bees | the number of legs of a spider | the painter of the Mona Lisa"""

SETTINGS: dict[str, dict[str, Any]] = {
    "as it comes": {},  # gradient checkpointing on, bfloat16 on
    "set for speed": {"gradient_checkpointing": False, "bf16": compute.bfloat16_pays("cpu")},
    "in float32": {"gradient_checkpointing": False, "bf16": False},
}
EXACT = "in float32"  # where both sides compute alike, their loss curves must agree


def dataset(tokenizer: PreTrainedTokenizerBase, batches: int) -> Dataset:
    """Preference pairs of about 50 tokens, the system message of the chat format included, none of them twice."""
    subjects = [subject.strip() for subject in SUBJECTS.replace("\n", "|").split("|")]
    asks = ["Tell me {}.", "What is {}?", "Do you know {}?", "I forgot {}."]
    prompts = [ask.format(subject) for ask in asks for subject in subjects][: PAIRS * batches]
    rows = [
        {
            "prompt": text.chat(tokenizer, prompt),
            "chosen": f"I am Lumen. You ask for {about}.",
            "rejected": f"I know {about}.",
        }
        for prompt, about in zip(prompts, subjects * len(asks), strict=False)
    ]
    return Dataset.from_list(rows)


def lora() -> LoraConfig:
    """The adapter of both, on every projection."""
    return LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")


def loss_of(policy: PeftModel, batch: text.Batch) -> Tensor:
    """DPO's mean loss; 2B rows: B chosen, then their B rejected, whose prompts are computed once."""
    now = PairLogps(*logprobs.pair_logprobs(policy, *batch))
    with torch.no_grad(), policy.disable_adapter():
        reference = PairLogps(*logprobs.pair_logprobs(policy, *batch))
    return dpo_loss(now, reference, BETA).mean()


@dataclass
class Loop:
    """Our side: a policy, its optimizer, and the mean loss of a batch."""

    policy: PeftModel
    optimizer: torch.optim.Optimizer
    loss: Callable[[PeftModel, Any], Tensor] = loss_of
    exact: bool = False

    @classmethod
    def start(
        cls, base: PreTrainedModel, loss: Callable[[PeftModel, Any], Tensor] = loss_of, exact: bool = False
    ) -> "Loop":
        policy = get_peft_model(base, lora()).eval()
        if not exact:
            compute.freeze_in_bfloat16(policy)
        parameters = [p for p in policy.parameters() if p.requires_grad]
        return cls(policy, torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True), loss, exact)

    def step(self, batch: Any) -> float:
        """One step; returns the loss."""
        with nullcontext() if self.exact else compute.autocast(CPU):
            loss = self.loss(self.policy, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def as_batch(inputs: dict[str, Tensor]) -> text.Batch:
    """The tensors that trl collated, in our names."""
    return text.Batch(inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"])


class Turns(TrainerCallback):
    """Times each step of the trainer, from its batch at hand to its optimizer's step, then takes and times ours."""

    def __init__(self, loop: Loop, batches: list[Any]) -> None:
        self.loop, self.batches = loop, batches
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.losses: list[float] = []

    def on_train_begin(self, *_: Any, model: Any = None, **__: Any) -> None:
        adapter = {name: value for name, value in model.state_dict().items() if "lora_" in name}
        self.loop.policy.load_state_dict(adapter, strict=False)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        middle = time.perf_counter()
        self.losses.append(self.loop.step(self.batches[len(self.losses)]))
        self.theirs.append(middle - self.start)
        self.ours.append(time.perf_counter() - middle)


def quietly() -> None:
    """No warnings and bars of the peers, and no look-up of anything online."""
    warnings.filterwarnings("ignore", module=r"(trl|transformers|peft|torch)\b")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    disable_progress_bar()


def common(steps: int) -> dict[str, Any]:
    """What every trainer of trl's is told, so that rate, order and clipping are ours too."""
    return {
        "output_dir": tempfile.mkdtemp(), "use_cpu": True, "report_to": "none", "save_strategy": "no",
        "disable_tqdm": True, "max_steps": steps, "train_sampling_strategy": "sequential", "logging_steps": 1,
        "learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 1.0,
    }  # fmt: skip


def trainer_of(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, steps: int, **settings: Any) -> DPOTrainer:
    """trl's trainer on the CPU, with the loss, rate and order that are ours too."""
    quietly()
    config = DPOConfig(beta=BETA, per_device_train_batch_size=PAIRS, **common(steps), **settings)
    trainer = DPOTrainer(
        model=base, args=config, train_dataset=dataset(tokenizer, steps), processing_class=tokenizer, peft_config=lora()
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def compare(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, steps: int, setting: str, target: float
) -> Comparison:
    """Steps of trl's trainer under one of SETTINGS, each followed by ours; the first WARM_UP are not timed."""
    loop = Loop.start(copy.deepcopy(base), exact=setting == EXACT)
    trainer = trainer_of(copy.deepcopy(base), tokenizer, steps, **SETTINGS[setting])
    rows = [trainer.train_dataset[i] for i in range(PAIRS * steps)]
    batches = [as_batch(trainer.data_collator(rows[PAIRS * i : PAIRS * (i + 1)])) for i in range(steps)]
    shape = tuple(batches[0].input_ids.shape)
    name = f"DPO step, SmolLM2, LoRA, {PAIRS} pairs ({shape[0]} x {shape[1]} tokens); trl {setting}"
    return in_turns(name, loop, trainer, batches, target, within=0.02 if setting == EXACT else None)


def in_turns(
    name: str, loop: Loop, trainer: Any, batches: list[Any], target: float, within: float | None = None
) -> Comparison:
    """Let the trainer train, each of its steps followed by one of ours; the first WARM_UP are not timed.

    within: how far the losses of a step may be apart, relative to trl's; where rounding differs it is only told.
    """
    turns = Turns(loop, batches)
    trainer.add_callback(turns)
    trainer.train()
    theirs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    gap = max(abs(a - b) / b for a, b in zip(turns.losses, theirs, strict=True))
    same = f"loss curves within {gap:.2%} over {len(batches)} steps ({turns.losses[0]:.3f} to {turns.losses[-1]:.3f})"
    warm = min(WARM_UP, len(batches) - 1)
    agree = within is None or gap <= within
    return Comparison(name, turns.ours[warm:], turns.theirs[warm:], target, same, agree)


def memory_of(side: str, steps: int) -> float:
    """The peak memory (GB) of a process that does nothing but load SmolLM2 and train `steps` steps, one side alone."""
    from alignlab import models

    base, tokenizer = models.load("small", CPU)
    trainer = trainer_of(base, tokenizer, steps, **SETTINGS.get(side, {}))
    if side == "ours":
        rows = [trainer.train_dataset[i] for i in range(PAIRS * steps)]
        compute.freeze_in_bfloat16(trainer.model)
        loop = Loop(
            trainer.model.eval(),
            torch.optim.AdamW([p for p in trainer.model.parameters() if p.requires_grad], lr=LEARNING_RATE),
        )
        for i in range(steps):
            loop.step(as_batch(trainer.data_collator(rows[PAIRS * i : PAIRS * (i + 1)])))
    else:
        trainer.train()
    return peak_memory()
