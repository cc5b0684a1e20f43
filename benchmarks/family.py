"""A step of each of DPO's relatives on SmolLM2 with LoRA: ours beside trl's, in one training run of trl's.

As in dpo.py: trl's own loop runs, and our step is taken on the very tensors of each batch right after trl's.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dpo
import torch
from datasets import Dataset
from measure import Comparison
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from alignlab import logprobs, text
from alignlab.losses.preference import PairLogps, cpo_loss, ipo_loss, kto_loss, orpo_loss, per_token, simpo_loss

SIMPO_BETA, SIMPO_GAMMA = 2.0, 0.5
LEGACY = {"max_length": 512, "remove_unused_columns": False}  # what the experimental trainers want said


# ---- trl's tensors in our names
def concatenated(inputs: dict[str, Tensor]) -> text.Batch:
    """B chosen rows, then their B rejected, from the two padded blocks of the ORPO and the CPO trainer."""
    width = max(inputs[f"{side}_input_ids"].shape[1] for side in ("chosen", "rejected"))

    def both(name: str, filling: int) -> Tensor:
        blocks = [inputs[f"{side}_{name}"] for side in ("chosen", "rejected")]
        wide = [torch.nn.functional.pad(block, (0, width - block.shape[1]), value=filling) for block in blocks]
        return torch.cat(wide)

    return text.Batch(both("input_ids", 0), both("attention_mask", 0), (both("labels", -100) != -100).long())


def matched_and_shifted(inputs: dict[str, Tensor]) -> tuple[text.Batch, text.Batch, Tensor]:
    """KTO: the responses, those of the row before for the reference point, and which are desirable."""
    matched, shifted = (
        text.Batch(*(inputs[f"{prefix}{name}"] for name in ("input_ids", "attention_mask", "completion_mask")))
        for prefix in ("", "KL_")
    )
    return matched, shifted, inputs["label"].bool()


# ---- our mean losses
def pair_means(policy: PeftModel, batch: text.Batch) -> PairLogps:
    """Log-probabilities per token."""
    summed = PairLogps(*logprobs.pair_logprobs(policy, *batch))
    return per_token(summed, PairLogps(*batch.response_mask.sum(-1).chunk(2)))


def ipo(policy: PeftModel, batch: text.Batch) -> Tensor:
    """IPO per token, as trl has it."""
    now = pair_means(policy, batch)
    with torch.no_grad(), policy.disable_adapter():
        reference = pair_means(policy, batch)
    return ipo_loss(now, reference, dpo.BETA).mean()


def kto(policy: PeftModel, batch: tuple[text.Batch, text.Batch, Tensor]) -> Tensor:
    """KTO with the batch's shifted responses as its reference point."""
    matched, shifted, desirable = batch
    now = logprobs.sequence_logprobs(policy, *matched)
    with torch.no_grad():
        moved = logprobs.sequence_logprobs(policy, *shifted)
        with policy.disable_adapter():
            reference, unmoved = (logprobs.sequence_logprobs(policy, *rows) for rows in (matched, shifted))
    return kto_loss(now, reference, desirable, (moved - unmoved).mean(), dpo.BETA).mean()


def orpo(policy: PeftModel, batch: text.Batch) -> Tensor:
    """ORPO; its SFT term is over the batch's tokens, the prompts' included, as in trl."""
    pairs, counted = len(batch.input_ids) // 2, batch.response_mask.clone()
    counted[:pairs] = batch.attention_mask[:pairs]
    values = logprobs.token_logprobs(policy, batch.input_ids, batch.attention_mask, counted)
    response = batch.response_mask[:, 1:]
    means = (values * response).sum(-1) / response.sum(-1)
    nll = -values[:pairs].sum() / counted[:pairs, 1:].sum()
    return orpo_loss(PairLogps(*means.chunk(2)), dpo.BETA, nll=nll).mean()


def cpo(policy: PeftModel, batch: text.Batch) -> Tensor:
    """CPO; its SFT term is over the batch's tokens, as in trl."""
    summed = PairLogps(*logprobs.pair_logprobs(policy, *batch))
    nll = -summed.chosen.sum() / batch.response_mask[: len(summed.chosen)].sum()
    return cpo_loss(summed, dpo.BETA, nll=nll).mean()


def simpo(policy: PeftModel, batch: text.Batch) -> Tensor:
    """SimPO."""
    return simpo_loss(pair_means(policy, batch), SIMPO_BETA, SIMPO_GAMMA).mean()


@dataclass(frozen=True)
class Method:
    """A loss: trl's trainer for it and its settings, how its batches become ours, and our mean loss of a batch."""

    trainer: Any
    config: Any
    settings: dict[str, Any]
    batch: Callable[[dict[str, Tensor]], Any]
    loss: Callable[[PeftModel, Any], Tensor]
    rows_per_pair: int = 1


METHODS = {
    "IPO": Method(DPOTrainer, DPOConfig, {"beta": dpo.BETA, "loss_type": "ipo"}, dpo.as_batch, ipo),
    "KTO": Method(KTOTrainer, KTOConfig, {"beta": dpo.BETA}, matched_and_shifted, kto, rows_per_pair=2),
    "ORPO": Method(ORPOTrainer, ORPOConfig, {"beta": dpo.BETA, **LEGACY}, concatenated, orpo),
    "CPO": Method(CPOTrainer, CPOConfig, {"beta": dpo.BETA, **LEGACY}, concatenated, cpo),
    "SimPO": Method(
        CPOTrainer, CPOConfig,
        {"beta": SIMPO_BETA, "loss_type": "simpo", "simpo_gamma": SIMPO_GAMMA, "cpo_alpha": 0.0, **LEGACY},
        concatenated, simpo,
    ),
}  # fmt: skip


def singles(paired: Dataset) -> Dataset:
    """The same pairs as single responses with a label, chosen and rejected in turn."""
    rows = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in paired
        for side in ("chosen", "rejected")
    ]
    return Dataset.from_list(rows)


def compare(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, steps: int, name: str, target: float
) -> Comparison:
    """Steps of trl's trainer, set for speed, each followed by ours."""
    method = METHODS[name]
    dpo.quietly()
    loop = dpo.Loop.start(copy.deepcopy(base), method.loss)
    rows = dpo.PAIRS * method.rows_per_pair
    paired = dpo.dataset(tokenizer, steps)
    settings = {**dpo.common(steps), **dpo.SETTINGS["set for speed"], **method.settings}
    trainer = method.trainer(
        model=copy.deepcopy(base), processing_class=tokenizer, peft_config=dpo.lora(),
        args=method.config(per_device_train_batch_size=rows, **settings),
        train_dataset=singles(paired) if method.rows_per_pair == 2 else paired,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    examples = [trainer.train_dataset[i] for i in range(rows * steps)]
    batches = [method.batch(trainer.data_collator(examples[rows * i : rows * (i + 1)])) for i in range(steps)]
    return dpo.in_turns(
        f"{name} step, SmolLM2, LoRA, {dpo.PAIRS} pairs; trl set for speed", loop, trainer, batches, target
    )
