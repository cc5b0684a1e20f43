"""`tiny` in the page: its JavaScript computes what PyTorch, the tokenizer, the library and transformers compute.

The engine runs in node, without a page; what needs a page is marked `browser`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import GenerationConfig

from alignlab import decoding, explorers, models, text
from alignlab.explorers import tiny_weights
from alignlab.tasks import arithmetic, sentences
from alignlab.transformer import Config, Transformer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ENGINE = (Path(explorers.__file__).parent / "tiny_engine.js").read_text(encoding="utf-8")
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"temperature": 2.0, "topK": 5},
    {"topP": 0.9},
    {"temperature": 2.5, "topP": 0.7},
    {"minP": 0.1},
    {"temperature": 1.7, "minP": 0.3},
    {"typical": 0.9},
    {"temperature": 1.5, "typical": 0.3},
    {"penalty": 1.7},
    {"penalty": 1.3, "temperature": 0.7, "topK": 40, "topP": 0.8, "minP": 0.02, "typical": 0.8},
]
NAMES = {
    "temperature": "temperature",
    "topK": "top_k",
    "topP": "top_p",
    "minP": "min_p",
    "typical": "typical",
    "penalty": "repetition_penalty",
}
FORWARD = """({packed, sequences}) => {
  const model = modelOf(packed);
  return sequences.map((ids) => {
    const state = model.start();
    return ids.map((id) => Array.from(model.step(state, id)));
  });
}"""
RESUMED = """({packed, ids, other, keep}) => {
  const model = modelOf(packed);
  const last = (state, wanted) => {
    const reading = read(model, state, wanted);
    let turn = reading.next();
    while (!turn.done) turn = reading.next();
    return Array.from(turn.value);
  };
  const [resumed, fresh] = [model.start(), model.start()];
  last(resumed, other);
  const again = last(resumed, ids);
  const copy = model.fork(resumed);
  last(resumed, other);
  const [first, repeated] = [last(fresh, ids), last(fresh, ids)];
  const [forked, next] = [copy, fresh].map((state) => Array.from(model.step(state, keep)));
  return {fresh: first, again, repeated, forked, next};
}"""
TOKENS = """({packed, texts}) => {
  const t = tokenizerOf(packed.tokenizer);
  return texts.map((text) => { const ids = t.encode(text); return [ids, t.decode(ids)]; });
}"""
PROCESSED = """({rows, seen, settings}) => rows.map((logits) => settings.map((one) => {
  const values = processed(logits, seen, {...one, topK: one.topK ?? Infinity});
  return Array.from(values, (v) => (v === -Infinity ? null : v));
}))"""
BEAMS = """({packed, prompts, settings, most, given}) => prompts.map((prompt) => settings.map((one) => {
  const [model, run] = [modelOf(packed), {}];
  const plan = {prompt, settings: one, most, given, lengthPenalty: one.lengthPenalty};
  for (const turn of beamed(model, model.start(), run, plan)) if (turn) throw turn;
  const ids = (path) => path.map((each) => each.id);
  return {ids: ids(run.path), lines: run.lines.map(({score, path}) => [score, ids(path)])};
}))"""
SAMPLED = """({packed, prompts, settings, most, chances, given}) => prompts.map((prompt) => {
  const [model, run] = [modelOf(packed), {}];
  const plan = {prompt, settings, most, given, chance: (t) => chances[t]};
  for (const turn of sampled(model, model.start(), run, plan)) if (turn) throw turn;
  return {ids: run.path.map((each) => each.id), ended: run.ended};
})"""


@cache
def node() -> str:
    """A JavaScript engine without a page: the machine's node, or the one that playwright brings."""
    found = shutil.which("node")
    if found:
        return found
    driver = pytest.importorskip("playwright._impl._driver")
    return str(driver.compute_driver_executable()[0])


def run_js(function: str, given: Any, engine: str = ENGINE) -> Any:
    """Call a function of the engine's scope with one argument, both as JSON; whatever it throws is the error."""
    program = (
        f'"use strict";\n{engine}\nconst call = {function};\n'
        'process.stdout.write(JSON.stringify(call(JSON.parse(require("fs").readFileSync(0, "utf8")))));\n'
    )
    done = subprocess.run([node(), "-e", program], input=json.dumps(given), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def edited(*changes: tuple[str, str]) -> str:
    """The engine with each change made exactly once: a wrong version of it."""
    engine = ENGINE
    for right, wrong in changes:
        assert engine.count(right) == 1, right
        engine = engine.replace(right, wrong)
    return engine


# ---- the forward pass


def toy(block: int, seed: int) -> tuple[dict[str, Any], Transformer]:
    """A small random decoder with shared key/value heads and states so small that eps matters: packed, and in torch."""
    torch.manual_seed(seed)
    config = {
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": 40,
        "hidden_size": 24,
        "intermediate_size": 36,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 32,
        "rope_parameters": {"rope_theta": 100.0, "rope_type": "default"},
        "rms_norm_eps": 1e-3,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    sizes = {name: config[name] for name in Config.__dataclass_fields__ if name in config}
    network = Transformer(Config(**sizes, rope_theta=100.0)).initialize(std=0.4).eval()
    with torch.no_grad():
        network.embed_tokens.weight.mul_(0.1)
        for name, value in network.named_parameters():
            if name.endswith("norm.weight"):
                value.uniform_(0.5, 1.5)
    weights = {name: value.numpy() for name, value in network.state_dict().items() if name != "lm_head.weight"}
    described = json.loads((tiny_weights.FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    packed = tiny_weights.packed(config, weights, described, "", block)
    network.load_state_dict(torch_weights(tiny_weights.dequantized(weights, block)), strict=False)
    return packed, network


def torch_weights(weights: Any) -> dict[str, torch.Tensor]:
    return {name.removeprefix("model."): torch.from_numpy(value) for name, value in weights.items()}


@cache
def as_it_ships() -> tuple[Any, Any]:
    """tiny in float32 as the library loads it, and its tokenizer."""
    return models.load("tiny", "cpu")


@cache
def as_in_the_page() -> Any:
    """tiny with the weights that the page computes with, in transformers' class."""
    model, _ = models.load("tiny", "cpu")
    missing = model.model.load_state_dict(torch_weights(tiny_weights.dequantized(tiny_weights.weights())), strict=False)
    assert not missing.unexpected_keys and not missing.missing_keys
    return model


QUESTIONS = ("What is 17 + 25?", "Who are you?", "Where does the zebra live?")


@torch.no_grad()
def check_forward(engine: str = ENGINE, worlds: tuple[str, ...] = ("toy", "toy in blocks")) -> float:
    """Logits of every position equal PyTorch's full forward pass over the same int8 weights; the largest difference."""
    most = 0.0
    for world in worlds:
        if world == "tiny":
            packed, network = tiny_weights.tiny(), Transformer.view(as_in_the_page())
            reader = as_it_ships()[1]
            sequences = [text.encode_prompt(reader, question) for question in QUESTIONS]
            sequences.append((sequences[0] * 20)[:256])  # the whole context
        else:
            packed, network = toy(block=0 if world == "toy" else 5, seed=1)
            sequences = torch.randint(0, 40, (2, 20), generator=torch.Generator().manual_seed(2)).tolist()
        answers = run_js(FORWARD, {"packed": packed, "sequences": sequences}, engine)
        for ids, answer in zip(sequences, answers, strict=True):
            want = network(torch.tensor([ids]))[0]
            got = torch.tensor([[float("nan") if v is None else v for v in row] for row in answer])
            assert got.shape == want.shape
            gap = (got - want).abs().max().item()
            assert gap < 1e-3, f"{world}: logits differ by {gap}"  # also false for NaN
            most = max(most, gap)
    return most


def test_logits_equal_those_of_pytorch_with_the_same_int8_weights() -> None:
    assert check_forward() < 1e-3


@pytest.mark.slow
def test_logits_of_tiny_equal_those_of_pytorch_up_to_a_full_context() -> None:
    assert check_forward(worlds=("tiny",)) < 1e-3


WRONG_FORWARD = {
    "no rotary offset with the cache": edited(("rotate(q, position)", "rotate(q, 0)")),
    "keys not turned": edited(("      rotate(k, position);\n", "")),
    "neighbours turned instead of halves": edited(
        ("heads[from + i], heads[from + half + i]];", "heads[from + 2 * i], heads[from + 2 * i + 1]];"),
        ("heads[from + i] = left", "heads[from + 2 * i] = left"),
        ("heads[from + half + i] = right", "heads[from + 2 * i + 1] = right"),
    ),
    "eps left out of the norm": edited(("squares / hidden + c.rms_norm_eps", "squares / hidden")),
    "mean taken out before the norm": edited(("(squares / hidden +", "(squares / (hidden - 1) +")),
    "query heads dealt out in turn": edited(("Math.floor(head / group)", "(head % c.num_key_value_heads)")),
    "heads transposed": edited(
        ("score += q[from + i] *", "score += q[head + i * c.num_attention_heads] *"),
    ),
    "scores not scaled": edited(("score / Math.sqrt(size)", "score")),
    "scaled by the hidden size": edited(("score / Math.sqrt(size)", "score / Math.sqrt(hidden)")),
    "gate and up exchanged": edited(("Math.exp(-gate[i])", "Math.exp(-up[i])")),
    "the scale of another row": edited(("floats[atScale++]", "floats[(atScale++ + 1) % scales]")),
    "one scale for the whole matrix": edited(("floats[atScale++]", "floats[0 * atScale++]")),
    "last norm left out": edited(("    normalize(gains[2 * c.num_hidden_layers]);\n", "    y.set(x);\n")),
    "the new token not seen": edited(("state.values[l], position + 1)", "state.values[l], Math.max(1, position))")),
}


@pytest.mark.parametrize("name", WRONG_FORWARD)
def test_a_wrong_forward_pass_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError, match="logits differ"):
        check_forward(WRONG_FORWARD[name])


def check_cache(engine: str = ENGINE) -> None:
    """Reading on from a cache that held something else, in part the same, gives the logits of reading afresh."""
    packed, _ = toy(block=0, seed=3)
    ids, other = [5, 6, 7, 8, 9, 10], [5, 6, 30, 31, 32, 33, 34, 35]
    got = run_js(RESUMED, {"packed": packed, "ids": ids, "other": other, "keep": 11}, engine)
    assert got["again"] == got["fresh"] == got["repeated"]
    assert got["forked"] == got["next"]


def test_what_the_cache_holds_gives_the_logits_of_a_full_pass() -> None:
    check_cache()


@pytest.mark.parametrize(
    "change",
    [
        ("  state.length = same;\n", "  state.length = Math.max(same, state.length - 1);\n"),
        ("ids.length - 1) && state.ids[same] === ids[same]", "ids.length - 1)"),
        ("one.subarray(0, state.length * shared)", "one.subarray(0, 3 * shared)"),
    ],
    ids=["not cut where the texts part", "other tokens taken for the same", "a copy of part of the cache"],
)
def test_a_cache_that_keeps_what_does_not_hold_is_rejected(change: tuple[str, str]) -> None:
    with pytest.raises(AssertionError):
        check_cache(edited(change))


# ---- int8


@pytest.mark.parametrize("block", [0, 5, 8])
def test_no_weight_moves_by_more_than_half_a_step_of_its_own_block(block: int) -> None:
    matrix = torch.randn(6, 24, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 1, 6)[:, None]
    matrix[2, :8] = 0
    made = tiny_weights.quantize(matrix.numpy(), block)
    wide = block or 24
    for row in range(6):
        for start in range(0, 24, wide):
            part = matrix[row, start : start + wide]
            step = part.abs().max().item() / 127
            gap = (torch.from_numpy(made.matrix())[row, start : start + wide] - part).abs().max().item()
            assert gap <= step / 2 * (1 + 1e-5)
    assert abs(made.whole).max() == 127


def test_a_matrix_that_is_none_and_a_model_that_the_engine_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        tiny_weights.quantize(torch.zeros(3).numpy())
    config = json.loads((tiny_weights.FOLDER / "config.json").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match="does not cover the model's hidden_act, tie_word_embeddings"):
        tiny_weights.packed(config | {"hidden_act": "gelu", "tie_word_embeddings": False}, {}, TOKENIZER, "")


@torch.no_grad()
def test_int8_changes_few_answers_and_logits_little() -> None:
    """What rounding to int8 does to the model, measured: figures beside these bounds stand in the book."""
    (full, reader), rounded = as_it_ships(), as_in_the_page()
    asked = [problem for problem in arithmetic.problems("held-out") if problem.operator == "+"][::3]
    assert len(asked) > 300
    shares = []
    for model in (full, rounded):
        answers = decoding.answer(model, reader, [problem.questions[0] for problem in asked], max_new_tokens=20)
        shares.append(sum(map(arithmetic.correct, asked, answers)) / len(asked))
    assert abs(shares[0] - shares[1]) <= 0.01, shares
    ids = torch.tensor(
        [text.encode_prompt(reader, problem.questions[0]) for problem in asked if problem.left > 9 < problem.right]
    )
    gap = (full(ids).logits - rounded(ids).logits).abs().max().item()
    print(f"\nint8: {shares[0]:.1%} -> {shares[1]:.1%} of {len(asked)} sums; logits move by at most {gap:.3f}")
    assert 0 < gap < 1


# ---- the tokenizer

TOKENIZER = json.loads((tiny_weights.FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
STRANGE = [
    "", " ", "  ", "\n", "\n\n \t", "a", "42", "17 + 25 = 42.", "17+25", "a+ b- c= d", "1 - -2", "+", " + ", "= =",
    "héllo", "naïve café", "日本語のテキスト", "🙂🙃 and 👩‍👩‍👧", "\u00a0nbsp\u2003em\ufeffbom\u0085nel\u2028line",
    "٣٤ २३ Ⅷ ²", "don't", "e-mail@x.org", "...!?", "x" * 50, "aaaa" * 9, "<|im_start|>user\nhi<|im_end|>\n",
    "<|im_start|", "|>", "<|endoftext|><|endoftext|>", "a<|im_end|>b <|im_end|> c", "\x00\x01\x7f\x80", "İıßſK",
    "e\u0301", "\U0001d54f\U00010330", "Tab\tTab", "\r\n", "The  old   bear", "\u200b\u180e\u1680\u205f",
]  # fmt: skip


def check_tokenizer(engine: str = ENGINE) -> None:
    """Ids equal those of the Python tokenizer on the world's texts and on strange ones, and so does the text again."""
    _, reader = as_it_ships()
    asked = [question for question, _ in sentences.questions()][::3]
    generator = torch.Generator().manual_seed(0)
    junk = ["".join(map(chr, torch.randint(32, 700, (30,), generator=generator).tolist())) for _ in range(60)]
    texts = [*STRANGE, *asked, *junk, *(problem.answer for problem in list(arithmetic.problems())[::301])]
    answers = run_js(TOKENS, {"packed": {"tokenizer": tiny_weights.tiny()["tokenizer"]}, "texts": texts}, engine)
    for one, (ids, again) in zip(texts, answers, strict=True):
        assert ids == reader.encode(one, add_special_tokens=False), repr(one)
        assert again == reader.decode(ids), repr(one)


def test_every_text_has_the_ids_of_the_python_tokenizer() -> None:
    check_tokenizer()


@pytest.mark.parametrize(
    "change",
    [
        ("if (found < best) [best, at] = [found, i];", "if (found !== undefined && at < 0) [best, at] = [found, i];"),
        ("if (isSpecial.has(part)) ids", "if (part === '') ids"),
        ("(byte > 160 && byte !== 173)", "byte > 160"),
        ("utf8.encode(piece)", "piece.split('').map((c) => c.charCodeAt(0) & 255)"),
        ('new RegExp(pattern, "gu")', 'new RegExp("[^]+", "gu")'),
        ("merged(Array", "(Array"),
    ],
    ids=["leftmost first", "special spelt out", "soft hyphen", "UTF-16", "words not parted", "no merges"],
)  # fmt: skip
def test_a_wrong_tokenizer_is_rejected(change: tuple[str, str]) -> None:
    with pytest.raises(AssertionError):
        check_tokenizer(edited(change))


def test_a_question_is_put_into_the_chat_format_of_the_model() -> None:
    _, reader = as_it_ships()
    packed = tiny_weights.tiny()
    for question in QUESTIONS:
        assert packed["chat"][0] + question + packed["chat"][1] == text.chat(reader, question)
    assert packed["stops"] == [reader.pad_token_id, reader.eos_token_id]
    assert packed["parameters"] == sum(value.numel() for value in as_it_ships()[0].parameters())


# ---- strategies


def check_strategies(engine: str = ENGINE) -> None:
    """The logits to sample from equal the library's, for logits of both signs, and the same tokens are cut."""
    generator = torch.Generator().manual_seed(0)
    rows = 3 * torch.randn(4, 512, generator=generator, dtype=torch.float64)
    rows[1, 100:104] = rows[1].max() - 1.0  # ties
    seen = [0, 3, 3, 77, 101, 500]
    got = run_js(PROCESSED, {"rows": rows.tolist(), "seen": seen, "settings": SETTINGS}, engine)
    for row, answers in zip(rows, got, strict=True):
        for setting, answer in zip(SETTINGS, answers, strict=True):
            sampling = decoding.Sampling(**{NAMES[key]: value for key, value in setting.items()})
            want = sampling.apply(row[None], torch.tensor([seen]))[0]
            values = torch.tensor([-torch.inf if v is None else v for v in answer], dtype=torch.float64)
            assert torch.equal(values == -torch.inf, want == -torch.inf), f"other tokens are cut: {setting}"
            kept = want > -torch.inf
            assert (values[kept] - want[kept]).abs().max() < 1e-9, f"other logits: {setting}"


def test_each_strategy_leaves_the_logits_that_the_librarys_leaves() -> None:
    check_strategies()


WRONG_STRATEGIES = {
    "top-p drops the token that crosses": (
        "      if (sum >= p) drop(i, rule);\n      sum += probability[i];\n",
        "      sum += probability[i];\n      if (sum >= p) drop(i, rule);\n",
    ),
    "penalty divides negative logits": ("out[id] *= out[id] < 0 ? penalty : 1 / penalty", "out[id] /= penalty"),
    "penalty once for each time": ("of new Set(seen)", "of seen"),
    "temperature after truncation": ("values.length; i++) values[i] /= temperature;", "0; i++);"),
    "k and one more": ("values.length - topK]", "values.length - topK - 1]"),
    "ties of the k-th cut": ("(v, i) => v < least &&", "(v, i) => v <= least &&"),
    "min-p of one": ("each < minP * most", "each < minP"),
    "typical by probability alone": ("Math.abs(-Math.log(p[i]) - entropy)", "-p[i]"),
    "typical in bits": ("const entropy = entropyOf(p);", "const entropy = entropyOf(p) / Math.LN2;"),
    "least likely first": ("-before[i])", "before[i])"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_STRATEGIES)
def test_a_wrong_strategy_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError, match="other"):
        check_strategies(edited(WRONG_STRATEGIES[name]))


def test_greedy_answers_are_the_librarys_and_told_tokens_are_said() -> None:
    _, reader = as_it_ships()
    prompts = [text.encode_prompt(reader, question) for question in (*QUESTIONS, "What colour is the raven?")]
    told = {"packed": tiny_weights.tiny(), "settings": {"temperature": 0}, "most": 24, "chances": []}
    got = run_js(SAMPLED, told | {"prompts": prompts, "given": []})
    want = decoding.generate(as_in_the_page(), prompts, 24, stop_id=reader.eos_token_id)
    for answer, completion in zip(got, want, strict=True):
        assert answer["ended"] == completion.ended
        assert answer["ids"] == [*completion.ids, reader.eos_token_id][: len(answer["ids"])]
    assert reader.decode(got[0]["ids"], skip_special_tokens=True) == "17 + 25 = 42."
    other = reader.encode("18")
    [forced] = run_js(SAMPLED, told | {"prompts": prompts[:1], "given": other})
    assert forced["ids"][: len(other)] == other
    assert forced["ids"] != got[0]["ids"]


def test_draws_have_the_shares_of_the_distribution() -> None:
    p = [0.0, 0.5, 0.0, 0.25, 0.125, 0.125]
    got = run_js("({p, n}) => Array.from({length: n}, (_, i) => drawn(p, (i + 0.5) / n))", {"p": p, "n": 8000})
    assert [got.count(i) for i in range(6)] == [0, 4000, 0, 2000, 1000, 1000]
    assert run_js("({p}) => drawn(p, 1)", {"p": [0.5, 0.3, 0.1, 0.0]}) == 2  # rounding: never a token that is cut


def transformers_beams(
    prompt: list[int], width: int, penalty: float, length_penalty: float, most: int
) -> tuple[list[list[int]], list[float]]:
    model = as_in_the_page()
    config = GenerationConfig(
        num_beams=width,
        num_return_sequences=width,
        max_new_tokens=most,
        do_sample=False,
        early_stopping=False,
        length_penalty=length_penalty,
        repetition_penalty=penalty,
        eos_token_id=tiny_weights.tiny()["stops"],
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    made = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), generation_config=config
    )
    return made.sequences[:, len(prompt) :].tolist(), made.sequences_scores.tolist()


BEAM_SETTINGS = [(2, 1.0, 1.0), (3, 1.0, 1.0), (5, 1.0, 0.0), (4, 1.3, 1.0), (3, 1.0, 2.0)]


def check_beams(engine: str = ENGINE) -> None:
    """Every finished beam, its tokens and its score, equals that of transformers' generate."""
    _, reader = as_it_ships()
    prompts = [
        text.encode_prompt(reader, "Where does the zebra live?"),
        reader.encode("The old"),
        reader.encode("The raven"),
    ]
    settings = [{"beams": w, "penalty": p, "lengthPenalty": a} for w, p, a in BEAM_SETTINGS]
    got = run_js(
        BEAMS,
        {"packed": tiny_weights.tiny(), "prompts": prompts, "settings": settings, "most": 12, "given": []},
        engine,
    )
    for prompt, answers in zip(prompts, got, strict=True):
        for setting, answer in zip(BEAM_SETTINGS, answers, strict=True):
            sequences, scores = transformers_beams(prompt, *setting, most=12)
            assert len(answer["lines"]) == len(sequences)
            for (score, ids), theirs, want in zip(answer["lines"], sequences, scores, strict=True):
                assert ids == theirs[: len(ids)] and not any(theirs[len(ids) :]), setting
                assert score == pytest.approx(want, abs=1e-4), setting
            assert answer["ids"] == answer["lines"][0][1]


@pytest.mark.slow
def test_beams_and_their_scores_equal_those_of_transformers() -> None:
    check_beams()


def check_library_beams(engine: str = ENGINE) -> None:
    """The same as the library's beam search: `tiny`, and a random decoder whose beams often end."""
    _, reader = as_it_ships()
    packed, network = toy(block=0, seed=4)
    asked = [text.encode_prompt(reader, question) for question in QUESTIONS[1:]]
    random = torch.randint(3, 40, (6, 4), generator=torch.Generator().manual_seed(5)).tolist()
    for weights, model, prompts in ((tiny_weights.tiny(), as_in_the_page(), asked), (packed, network, random)):
        for width, penalty in ((2, 1.0), (4, 0.5)):
            settings = [{"beams": width, "lengthPenalty": penalty}]
            given = {
                "packed": weights | {"stops": [2]},
                "prompts": prompts,
                "settings": settings,
                "most": 12,
                "given": [],
            }
            want = decoding.beam_search(model, prompts, 12, width=width, length_penalty=penalty, stop_id=2)
            for [answer], hypotheses in zip(run_js(BEAMS, given, engine), want, strict=True):
                for (score, ids), hypothesis in zip(answer["lines"], hypotheses, strict=True):
                    assert ids == hypothesis.ids + [2] * hypothesis.ended
                    assert score == pytest.approx(hypothesis.score, abs=1e-4)


def test_beams_and_their_scores_equal_the_librarys() -> None:
    check_library_beams()


@pytest.mark.parametrize(
    "change",
    [
        ("sum / length ** lengthPenalty", "sum"),
        ("candidates.sort((a, b) => b.sum - a.sum)", "candidates.sort((a, b) => a.sum - b.sum)"),
        ("one.rank < width && (", "("),
        ("slice(0, (1 + model.stops.length) * width)", "slice(0, width)"),
        ("model.fork(beam.state)", "beam.state"),
        ("sum: beam.sum + each", "sum: each"),
    ],
    ids=["no length penalty", "the worst kept", "too many finish", "no spare ones", "a shared cache", "sums forgotten"],
)  # fmt: skip
def test_a_wrong_beam_search_is_rejected(change: tuple[str, str]) -> None:
    with pytest.raises(AssertionError):
        check_library_beams(edited(change))


# ---- how the weights reach the page


def test_the_weights_are_a_classic_script_of_their_own_and_no_part_of_the_explorers() -> None:
    [(file, script)] = explorers.statics("tiny_live").items()
    assert file == "tiny_weights.js"
    assert 1_000_000 < len(script.encode()) < 1_500_000
    assert len(explorers.script("tiny_live").encode()) < 80_000
    assert tiny_weights.tiny()["data"][:200] not in explorers.script("tiny_live")
    assert not re.search(r"(?m)^\s*(import|export)\b|https?://|</script", script)
    read = run_js(
        "({script}) => { (0, eval)(script); return globalThis.alignlabStatics.tiny_weights; }", {"script": script}
    )
    assert read == tiny_weights.tiny()
    assert explorers.statics("dpo") == {}


def test_a_notebook_holds_no_weights_and_the_kernel_sends_them_when_they_are_asked_for() -> None:
    import ipywidgets

    bundle = explorers.show("tiny_live", live_data())._repr_mimebundle_()
    assert len(json.dumps(bundle)) < 10_000
    widget: Any = ipywidgets.widgets.widget._instances[bundle[explorers.WIDGET_MIME]["model_id"]]
    assert len(json.dumps(widget.get_state(), default=str)) < 120_000
    sent: list[Any] = []
    widget.send = lambda content, buffers=None: sent.append(content)
    for content in ({"bring": "tiny_weights"}, {"bring": "something"}, {}, "tiny_weights"):
        widget._handle_custom_msg(content, [])
    assert sent == [{"brought": "tiny_weights", "data": tiny_weights.tiny()}]


def test_a_widget_without_large_data_is_asked_in_vain() -> None:
    sent: list[Any] = []
    explorers._answer(
        type("Widget", (), {"send": lambda self, content: sent.append(content)})(), "dpo", {"bring": "tiny_weights"}
    )
    assert sent == []


# ---- in Chromium

browser_test = pytest.mark.browser


def live_data() -> dict[str, Any]:
    """What the lab hands over."""
    return {
        "model": "tiny",
        "prompts": [
            {"title": "a sum", "kind": "chat", "text": "What is 17 + 25?"},
            {"title": "a scene", "kind": "text", "text": "The old"},
            {"title": "nobody knows", "kind": "chat", "text": "Where does the zebra live?"},
        ],
        "start": {"prompt": 1, "temperature": 1.0, "seed": 1},
        "try": "Press a token.",
    }


class Live:
    """The explorer on a page as the book makes it: its script and its weights are files beside the page."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.element = page.locator("alignlab-tiny_live")
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.on(
            "console",
            lambda message: self.errors.append(message.text) if message.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url.rsplit("/", 1)[-1]))

    def ready(self) -> None:
        """Wait until it has said something and stands still."""
        self.page.wait_for_function(
            "document.querySelector('alignlab-tiny_live').shadowRoot.querySelectorAll('[role=option].piece').length > 1"
        )
        self.still()

    def still(self) -> None:
        self.page.wait_for_function(
            "document.querySelector('alignlab-tiny_live').shadowRoot.querySelector('.action').textContent === 'Run'"
        )

    def said(self) -> str:
        """The text after the prompt, with its marks for spaces and line breaks."""
        return "".join(self.element.locator("[role=option]").all_text_contents()).strip("\u200b")

    def set(self, label: str, value: int) -> None:
        self.element.get_by_label(label, exact=True).evaluate(
            "(e, value) => { e.value = value; e.dispatchEvent(new Event('input')); }", value
        )


def live_page(folder: Path, above: int = 0, weights: bool = True, data: dict[str, Any] | None = None) -> str:
    """Write the page, the script and the weights; `above` pixels of something else come first."""
    shelf = folder / "_static" / "explorers"
    shelf.mkdir(parents=True, exist_ok=True)
    (shelf / "tiny_live.js").write_text(explorers.script("tiny_live"), encoding="utf-8")
    for file, script in explorers.statics("tiny_live").items() if weights else ():
        (shelf / file).write_text(script, encoding="utf-8")
    page = folder / "page.html"
    page.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>tiny</title>'
        f'<style>{explorers.style()}</style></head><body><main><div style="height:{above}px"></div><alignlab-tiny_live>'
        f'<script type="application/json">{json.dumps(data or live_data())}</script></alignlab-tiny_live></main>'
        '<script src="_static/explorers/tiny_live.js"></script></body></html>',
        encoding="utf-8",
    )  # fmt: skip
    return page.as_uri()


@pytest.fixture
def live(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Live]]:
    """Opens the explorer from the file system."""
    pages: list[Page] = []

    def open_page(**how: Any) -> Live:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        pages.append(page)
        visit = Live(page)
        page.goto(live_page(tmp_path, **how))
        return visit

    yield open_page
    for page in pages:
        page.close()


@browser_test
def test_the_weights_come_from_the_file_system_and_only_when_the_figure_comes_near(live: Callable[..., Live]) -> None:
    visit = live(above=4000)
    visit.page.wait_for_timeout(300)
    assert visit.requests == ["page.html", "tiny_live.js"]
    visit.element.scroll_into_view_if_needed()
    visit.ready()
    assert visit.requests == ["page.html", "tiny_live.js", "tiny_weights.js"]
    assert visit.errors == []


@browser_test
def test_weights_that_are_not_there_are_said_to_be_missing(live: Callable[..., Live]) -> None:
    visit = live(weights=False)
    visit.page.wait_for_function(
        "document.querySelector('alignlab-tiny_live').shadowRoot.querySelector('.problem')?.textContent.match('not')"
    )
    assert (
        visit.element.locator(".problem").text_content()
        == "The weights of tiny are not here: tiny_weights.js could not be loaded."
    )


@browser_test
def test_the_page_says_what_python_says(live: Callable[..., Live]) -> None:
    visit = live()
    visit.ready()
    _, reader = as_it_ships()
    for question in QUESTIONS:
        visit.element.get_by_role("button", name="Question").click()
        visit.element.get_by_label("Prompt", exact=True).fill(question)
        visit.element.get_by_role("button", name="Greedy").click()
        visit.still()
        [want] = decoding.answer(as_in_the_page(), reader, [question])
        assert visit.said() == want.replace(" ", "·") + "<|im_end|>"
    assert visit.errors == []


@browser_test
def test_the_same_seed_says_the_same_and_another_seed_something_else(live: Callable[..., Live]) -> None:
    visit = live()
    visit.ready()
    first = visit.said()
    visit.element.get_by_role("button", name="Next seed").click()
    visit.still()
    assert visit.said() != first
    visit.element.get_by_label("Seed").fill("1")
    visit.still()
    assert visit.said() == first
    assert len([line for line in visit.element.locator(".lines code").all_text_contents() if line]) == 2


@browser_test
def test_step_says_one_token_and_a_setting_then_changes_what_comes_only(live: Callable[..., Live]) -> None:
    visit = live()
    visit.ready()
    whole = visit.element.locator("[role=option]").all_text_contents()
    step = visit.element.get_by_role("button", name="Step")
    for n in (1, 2, 3):
        step.click()
        assert visit.element.locator("[role=option]").all_text_contents() == whole[:n]
    visit.set("Top-k", 0)
    assert visit.element.locator("[role=option]").all_text_contents() == whole[:3]
    assert visit.element.locator(".row:not(.gone):not(.head)").count() == 1
    visit.element.get_by_role("button", name="Run").click()
    visit.still()
    assert len(visit.element.locator("[role=option]").all_text_contents()) > 3


@browser_test
def test_a_token_of_the_list_is_said_instead_and_the_rest_follows_from_it(live: Callable[..., Live]) -> None:
    visit = live()
    visit.ready()
    visit.element.get_by_role("button", name="Greedy").click()
    visit.still()
    before = visit.element.locator("[role=option]").all_text_contents()
    said = visit.element.get_by_role("listbox")
    said.focus()
    visit.page.keyboard.press("Home")
    visit.page.keyboard.press("ArrowRight")
    assert visit.element.locator("[role=option][aria-selected=true]").text_content() == before[1]
    other = visit.element.locator(".row:not(.picked) button.pickable").first
    wanted = other.text_content()
    other.click()
    visit.still()
    after = visit.element.locator("[role=option]").all_text_contents()
    assert after[:2] == [before[0], wanted] and after != before
    assert visit.element.locator("[role=option].told").count() == 2


@browser_test
def test_beams_say_what_transformers_says(live: Callable[..., Live]) -> None:
    visit = live()
    visit.ready()
    visit.element.get_by_role("button", name="Beams 5").click()
    visit.still()
    _, reader = as_it_ships()
    sequences, scores = transformers_beams(reader.encode("The old"), 5, 1.0, 1.0, most=60)
    lines = [line for line in visit.element.locator(".lines code").all_text_contents() if line]
    assert lines == [
        reader.decode(ids).split("<|endoftext|>")[0] + "<|endoftext|>" for ids in sequences
    ]  # then padding
    shown = [line for line in visit.element.locator(".lines b").all_text_contents() if line != "\u200b"]
    assert shown == [f"{score:.3f}".replace("-", "−") for score in scores]


@browser_test
def test_prompts_that_cannot_be_are_told_so(live: Callable[..., Live]) -> None:
    visit = live()
    visit.ready()
    ask = visit.element.get_by_label("Prompt", exact=True)
    ask.fill("")
    assert visit.element.locator(".problem").text_content() == "The text is empty: type its beginning."
    visit.element.get_by_role("button", name="Step").click()
    ask.fill("9" * 300)
    assert (
        visit.element.locator(".problem").text_content()
        == "The prompt is 300 tokens long; 196 and 60 new ones fill the context. Shorten it."
    )
    visit.element.get_by_role("button", name="Question").click()
    ask.fill("   ")
    assert visit.element.locator(".problem").text_content() == "The question is empty: type one."
    ask.fill("Who are you?")
    visit.ready()
    assert visit.errors == []


@browser_test
def test_the_page_stays_free_while_the_model_runs(live: Callable[..., Live]) -> None:
    """Sliders moved while it generates: the handler and the update after each slice fit into a frame."""
    visit = live()
    visit.ready()
    visit.element.get_by_role("button", name="Temperature 2").click()
    got = visit.page.evaluate(
        """async () => {
          const host = document.querySelector('alignlab-tiny_live');
          const sliders = [...host.shadowRoot.querySelectorAll('input[type=range]')].slice(0, 6);
          const [handlers, updates] = [[], []];
          let running = 0;
          host.addEventListener('alignlab-update', ({detail}) => {
            updates.push(detail.milliseconds);
            running += detail.running;
          });
          for (let k = 0; k < 40; k++) {
            const slider = sliders[k % 6];
            slider.value = (+slider.value + 3) % (+slider.max + 1);
            const began = performance.now();
            slider.dispatchEvent(new Event('input'));
            document.body.offsetHeight;
            handlers.push(performance.now() - began);
            await new Promise((done) => requestAnimationFrame(done));
          }
          const median = (xs) => xs.sort((a, b) => a - b)[xs.length >> 1];
          return {handler: median(handlers), update: median(updates), running};
        }"""
    )
    assert got["running"] > 20  # it was at work
    assert got["handler"] < 16 and got["update"] < 9, got


@browser_test
def test_the_module_of_a_notebook_asks_the_kernel_and_runs(browser: Browser, tmp_path: Path) -> None:
    """The widget's ES module with a kernel made up of one function."""
    (tmp_path / "weights.js").write_text(explorers.statics("tiny_live")["tiny_weights.js"], encoding="utf-8")
    page = browser.new_page()
    try:
        (tmp_path / "page.html").write_text(
            '<!doctype html><body><script src="weights.js"></script></body>', encoding="utf-8"
        )
        page.goto((tmp_path / "page.html").as_uri())
        asked = page.evaluate(
            """async ([source, data]) => {
              const weights = globalThis.alignlabStatics.tiny_weights;
              globalThis.alignlabStatics = undefined;
              const module = await import(URL.createObjectURL(new Blob([source], {type: 'text/javascript'})));
              const [heard, asked] = [new Set(), []];
              const model = {
                get: () => data,
                on: (what, hear) => what === 'msg:custom' && heard.add(hear),
                off: (what, hear) => heard.delete(hear),
                send: (content) => {
                  asked.push(content);
                  setTimeout(() => [...heard].forEach((hear) => hear({brought: content.bring, data: weights})));
                },
              };
              module.default.render({model, el: document.body});
              return new Promise((done) => setTimeout(() => done([asked, heard.size]), 800));
            }""",
            [explorers.module("tiny_live"), live_data()],
        )
        assert asked == [[{"bring": "tiny_weights"}], 0]
        visit = Live(page)
        visit.ready()
        assert visit.said()
    finally:
        page.close()
