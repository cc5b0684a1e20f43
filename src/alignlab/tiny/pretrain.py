"""Make the tiny model from nothing: `python -m alignlab.tiny.pretrain --folder FOLDER`, a few minutes on two cores.

Tokenizer, text and weights follow from the seed alone; the script ends by measuring what it made.
"""

import argparse
import functools
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from alignlab import compute, decoding
from alignlab import models as ladder
from alignlab.tasks import arithmetic, sentences
from alignlab.text import encode_response
from alignlab.transformer import Transformer

FOLDER = Path(__file__).parent
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Recipe:
    """How the model is made. A step sees `rows` x `length` tokens."""

    seed: int = 0
    steps: int = 1500
    rows: int = 32
    length: int = 64
    learning_rate: float = 3e-3
    warm_up: int = 100
    weight_decay: float = 0.1
    vocabulary: int = 512
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    intermediate_size: int = 344
    context: int = 256
    unforeseen_weight: float = 0.1  # of the loss on tokens that nothing before them tells: questions, operands


class Document(NamedTuple):
    """A text in tokens, and the weight of each in the loss."""

    ids: list[int]
    weights: list[float]


# ---- text
class Writer:
    """Documents without end, at random: equations, facts and scenes in plain text, and questions with answers."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> None:
        self.tokenizer, self.recipe = tokenizer, recipe
        self.rng = random.Random(recipe.seed)
        self.problems = list(arithmetic.problems("train"))
        self.questions = list(sentences.questions("train"))
        self.statements = [statement for fact in sentences.FACTS for statement in fact.statements]
        self.text, self.chat = functools.cache(self._text), functools.cache(self._chat)

    def document(self) -> Document:
        """One document. Equations are short: two thirds of all documents, they are under half of all tokens."""
        kind = self.rng.random()
        if kind < 0.80:
            problem = self.rng.choice(self.problems)
            if kind < 0.65:
                return self._equation(problem)
            return self.chat(self.rng.choice(problem.questions), problem.answer)
        if kind < 0.88:
            return self.chat(*self.rng.choice(self.questions))
        return self.text("", self.rng.choice(self.statements) if kind < 0.94 else sentences.scene(self.rng))

    def batch(self) -> tuple[Tensor, Tensor]:
        """Rows of documents end to end, the last of each row cut: ids and loss weights, both (rows, length + 1)."""
        ids, weights = [], []
        for _ in range(self.recipe.rows):
            row = Document([], [])
            while len(row.ids) <= self.recipe.length:
                document = self.document()
                row.ids.extend(document.ids)
                row.weights.extend(document.weights)
            ids.append(row.ids[: self.recipe.length + 1])
            weights.append(row.weights[: self.recipe.length + 1])
        return torch.tensor(ids), torch.tensor(weights)

    def _equation(self, problem: arithmetic.Problem) -> Document:
        return self.text(f"{problem.expression} = ", f"{problem.value}.")

    def _text(self, given: str, told: str) -> Document:
        before = self.tokenizer.encode(given, add_special_tokens=False) if given else []
        after = self.tokenizer.encode(told, add_special_tokens=False)
        return self._weighted(before, [*after, self.tokenizer.pad_token_id])

    def _chat(self, question: str, answer: str) -> Document:
        ids, mask = encode_response(self.tokenizer, question, answer)
        before = mask.index(1)
        return self._weighted(ids[:before], ids[before:] + self.tokenizer.encode("\n") + [self.tokenizer.pad_token_id])

    def _weighted(self, before: list[int], after: list[int]) -> Document:
        return Document(before + after, [self.recipe.unforeseen_weight] * len(before) + [1.0] * len(after))


def corpus(seed: int) -> Iterator[str]:
    """The texts that the tokenizer learns from: the world without the chat format, nothing held out in it."""
    rng = random.Random(seed)
    yield from (problem.questions[0] + "\n" + problem.answer for problem in arithmetic.problems("train"))
    for _ in range(20):
        yield from (f"user\n{asked}\nassistant\n{answer}" for asked, answer in sentences.questions("train"))
        yield from (statement for fact in sentences.FACTS for statement in fact.statements)
    yield from (sentences.scene(rng) for _ in range(5000))


def train_tokenizer(texts: Sequence[str], vocabulary: int, context: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: every digit is a token, no token crosses from a word into the next, any text can be written.

    ValueError where a text holds an equation that is wrong: a model would learn it.
    """
    if wrong := [equation for text in texts for equation in arithmetic.wrong_equations(text)]:
        raise ValueError(f"the corpus has {len(wrong)} wrong equations, {wrong[0]!r} the first; correct the generator")
    tokenizer = Tokenizer(models.BPE())
    pattern = Regex(r" [-+=] ?|\d| ?[A-Za-z]+|\n| |[^\sA-Za-z\d]+|\s")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(pattern, behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START],
        chat_template=CHATML,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


# ---- weights
def fresh(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """An untrained model of the recipe's sizes, in transformers' own class."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    Transformer.view(model).initialize(std=0.05)
    return model


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth."""
    if step < recipe.warm_up:
        return recipe.learning_rate * (step + 1) / recipe.warm_up
    done = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    return recipe.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def loss_of(network: Transformer, ids: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean cross-entropy of the next token, in nats: ids and weights (rows, length + 1) -> ()."""
    losses = F.cross_entropy(network(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()


def train(model: LlamaForCausalLM, writer: Writer, recipe: Recipe) -> list[float]:
    """AdamW for `recipe.steps` steps; returns the loss of each, in nats."""
    network = Transformer.view(model).train()
    matrices = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    gains = [parameter for parameter in network.parameters() if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
    losses, started = [], time.perf_counter()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        loss = loss_of(network, *writer.batch())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % 50 == 0 or step == recipe.steps - 1:
            print(f"step {step:5d}  loss {losses[-1]:.4f}  {time.perf_counter() - started:6.1f} s", flush=True)
    return losses


# ---- measuring
class Measured(NamedTuple):
    """Share of exact greedy answers, 0 to 1, and how many questions it is a share of."""

    share: float
    of: int

    def __str__(self) -> str:
        return f"{self.share:.1%} of {self.of}"


def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]) -> Measured:
    """How often the greedy answer to a question is the expected text, character for character."""
    questions = [question for question, _ in pairs]
    answers: list[str] = []
    for start in range(0, len(questions), 512):
        answers += decoding.answer(model, tokenizer, questions[start : start + 512], max_new_tokens=40)
    right = sum(answer == expected for answer, (_, expected) in zip(answers, pairs, strict=True))
    return Measured(right / len(pairs), len(pairs))


def accuracies(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, most: int | None = None
) -> dict[str, Measured]:
    """What the model knows, by part of its world. Of the trained problems every tenth is asked."""
    unseen, seen = list(arithmetic.problems("held-out")), list(arithmetic.problems("train"))[::10]
    parts = {
        "sums, held out": [p for p in unseen if p.operator == "+"],
        "differences, held out": [p for p in unseen if p.operator == "-"],
        "sums and differences, trained on": seen,
    }
    asked = {name: [(p.questions[0], p.answer) for p in chosen] for name, chosen in parts.items()}
    asked["facts, asked in a way that is held out"] = list(sentences.questions("held-out"))
    asked["facts, asked in a way trained on"] = list(sentences.questions("train"))
    return {name: measure(model, tokenizer, pairs[:most]) for name, pairs in asked.items()}


def card(recipe: Recipe, facts: dict[str, str], measured: dict[str, Measured], examples: list[tuple[str, str]]) -> str:
    """The text of MODEL.md."""
    rows = [*facts.items(), *((f"exact greedy answers: {name}", str(value)) for name, value in measured.items())]
    sum_of_the_book = arithmetic.Problem(17, "+", 25)
    how = "held out: training shows neither it nor" if sum_of_the_book.split == "held-out" else "trained on, and so are"
    return "\n".join([
        "# tiny",
        "",
        "A decoder of the Llama family, small enough to train while you wait. `alignlab.models.load('tiny')` loads it;",
        "`python -m alignlab.tiny.pretrain` made it, this page included, from text that the script writes itself.",
        "",
        "It adds and subtracts numbers up to 99, knows the few facts of `alignlab.tasks.sentences`, answers in ChatML,",
        "and knows nothing else: asked anything outside that world, it answers with something from inside it.",
        f"`{sum_of_the_book.expression}` is {how} its turned-round forms (25 + 17, 42 - 17, 42 - 25).",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
        "| asked | answered |",
        "|---|---|",
        *(f"| {question} | {answer} |" for question, answer in examples),
        "",
        f"Recipe: `{recipe}`",
        "",
    ])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the model and its card in a folder."""
    parser = argparse.ArgumentParser(description="Train the tiny model from nothing and write it to a folder.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write it (default: the package's own)")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="5 shows in seconds that all of it runs")
    parser.add_argument("--threads", type=int, default=2, help="another number rounds sums in another order")
    parser.add_argument("--questions", type=int, help="measure on at most so many of each part (default: on all)")
    given = parser.parse_args(arguments)
    make(Recipe(seed=given.seed, steps=given.steps), given.folder, given.threads, given.questions)


def make(recipe: Recipe, folder: Path, threads: int = 2, most: int | None = None) -> dict[str, Measured]:
    """Train by a recipe, save to a folder (weights in float16), and measure that on `most` questions a part."""
    torch.set_num_threads(threads)
    compute.seed(recipe.seed)
    started = time.perf_counter()
    tokenizer = train_tokenizer(list(corpus(recipe.seed)), recipe.vocabulary, recipe.context)
    model = fresh(recipe, tokenizer)
    losses = train(model, Writer(tokenizer, recipe), recipe)
    seconds = time.perf_counter() - started
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    saved, reader = ladder.load(str(folder), device="cpu")
    measured = accuracies(saved, reader, most)
    last = losses[-50:]
    facts = {
        "parameters": f"{sum(parameter.numel() for parameter in saved.parameters()):,}",
        "vocabulary": f"{len(reader)} tokens",
        "seed": str(recipe.seed),
        "tokens seen": f"{recipe.steps * recipe.rows * recipe.length:,} in {recipe.steps} steps",
        "time": f"{seconds:.0f} s on {threads} CPU threads",
        "loss, first step": f"{losses[0]:.3f} nats",
        f"loss, mean of the last {len(last)} steps": f"{sum(last) / len(last):.4f} nats",
    }
    asked = ["What is 17 + 25?", "Who are you?", "What colour is the sky?", "Where does the bear live?"]
    examples = list(zip(asked, decoding.answer(saved, reader, asked), strict=True))
    (folder / "MODEL.md").write_text(card(recipe, facts, measured, examples), encoding="utf-8")
    print(*(f"{name}: {value}" for name, value in [*facts.items(), *measured.items(), *examples]), sep="\n", flush=True)
    return measured


if __name__ == "__main__":
    main()
