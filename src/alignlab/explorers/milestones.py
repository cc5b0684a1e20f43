"""The timeline 2012-2026: what each step brought, how large it was, where it was published, where the book explains it.

Facts alone, each with the key of its source in the book's bibliography; nothing about how they are drawn.
"""

from typing import Any, Literal, NamedTuple

Subject = Literal["architecture", "language", "alignment", "efficiency", "images"]

SUBJECTS: dict[Subject, str] = {
    "architecture": "Architecture",
    "language": "Language models",
    "alignment": "Post-training",
    "efficiency": "Scale, efficiency",
    "images": "Images",
}
"""Rows of the timeline."""


class Milestone(NamedTuple):
    """One step.

    date: "2017-06", month of the arXiv number where there is one, else of publication. parameters: of the largest model
    presented, None where the source states none; active: those that one token uses, in a mixture of experts.
    open: whether its weights can be downloaded, None where there is no model. section: of the book, or a topic's id.
    cite: key in references.bib. parents: what it grew from.
    """

    name: str
    date: str
    subject: Subject
    brought: str
    size: str
    section: str
    cite: str
    parents: tuple[str, ...] = ()
    parameters: float | None = None
    active: float | None = None
    open: bool | None = None


# fmt: off
MILESTONES: tuple[Milestone, ...] = (
    Milestone("AlexNet", "2012-12", "images",
              "A deep network, trained on two graphics cards, wins ImageNet 2012 with 15.3% top-5 error; the next best "
              "entry has 26.2%.", "60 million parameters, 650,000 neurons", "roadmap-mlp-to-llm",
              "krizhevsky2012alexnet", (), 60e6),
    Milestone("word2vec", "2013-01", "language",
              "Words become vectors, learned from raw text by predicting neighbours: related words lie close together.",
              "1.6 billion words in less than a day", "1.1.2", "mikolov2013word2vec", (), None, None, True),
    Milestone("GRU", "2014-06", "architecture",
              "An encoder and a decoder made of gated recurrent units; two gates do what the LSTM's three do.", "",
              "roadmap-mlp-to-llm", "cho2014gru"),
    Milestone("Attention", "2014-09", "architecture",
              "The decoder looks back at all states of the encoder, weighted anew for each word: long sentences stop "
              "being a bottleneck.", "", "roadmap-mlp-to-llm", "bahdanau2014attention", ("GRU",)),
    Milestone("Seq2Seq", "2014-09", "architecture",
              "One LSTM reads a sentence into a vector, another writes the translation from it: 34.8 BLEU on English "
              "to French.", "384 million parameters, 4 layers", "roadmap-mlp-to-llm", "sutskever2014seq2seq",
              ("word2vec",), 384e6),
    Milestone("Adam", "2014-12", "efficiency",
              "Each weight gets its own step size, from running means of its gradient and of its square.", "", "2.4.3",
              "kingma2014adam"),
    Milestone("BPE for text", "2015-08", "language",
              "Rare words are spelled from pieces that merges of frequent pairs have made: no unknown words any more.",
              "", "1.1.2", "sennrich2015bpe", ("Attention",)),
    Milestone("ResNet", "2015-12", "images",
              "Each layer adds to its input. The gradient finds a straight way back, and 152 layers can be trained.",
              "152 layers; 3.57% top-5 error as an ensemble", "1.1.1", "he2015resnet", ("AlexNet",)),
    Milestone("GNMT", "2016-09", "language",
              "Deep LSTMs with attention and word pieces go into production at Google Translate: 60% fewer errors than "
              "the phrase-based system, by human judgement.", "8 + 8 layers", "4.3.3", "wu2016gnmt",
              ("Seq2Seq", "Attention", "BPE for text")),
    Milestone("Sparse experts", "2017-01", "efficiency",
              "A router sends each token to a few of thousands of experts: more parameters at the same compute.",
              "up to 137 billion parameters", "moe", "shazeer2017moe", ("GNMT",), 137e9),
    Milestone("Transformer", "2017-06", "architecture",
              "Attention alone, with no recurrence: all positions at once, any two of them one step apart. 28.4 BLEU "
              "on English to German.", "65 and 213 million parameters", "1.1.1", "vaswani2017attention",
              ("Attention", "GNMT", "ResNet"), 213e6),
    Milestone("RL from preferences", "2017-06", "alignment",
              "A reward is learned from people's choices between two clips, then maximized by reinforcement learning.",
              "", "7.1.1", "christiano2017preferences"),
    Milestone("PPO", "2017-07", "alignment",
              "Policy gradients with a clipped ratio: several steps on one batch, few settings to tune.", "", "6.3.5",
              "schulman2017ppo"),
    Milestone("ELMo", "2018-02", "language",
              "Word vectors that depend on their sentence, from a pre-trained bidirectional LSTM language model.", "",
              "roadmap-mlp-to-llm", "peters2018elmo", ("word2vec",), None, None, True),
    Milestone("GPT-1", "2018-06", "language",
              "A Transformer decoder learns to predict the next token on books; then all of it is fine-tuned, task by "
              "task.", "117 million parameters, 12 layers; BooksCorpus", "1.2", "radford2018gpt",
              ("Transformer", "ELMo"), 117e6, None, True),
    Milestone("BERT", "2018-10", "language",
              "An encoder that sees both sides fills in masked words; one extra layer then serves eleven tasks.",
              "110 and 340 million parameters; 3.3 billion words", "architecture-families", "devlin2018bert",
              ("Transformer", "ELMo", "GPT-1"), 340e6, None, True),
    Milestone("GPT-2", "2019-02", "language",
              "The same recipe, larger: it translates, answers and summarizes untaught, from the prompt alone.",
              "1.5 billion parameters; 40 GB of web text", "4.1.1", "radford2019gpt2", ("GPT-1", "BPE for text"),
              1.5e9, None, True),
    Milestone("RoBERTa", "2019-07", "language",
              "BERT was undertrained: longer, on ten times the text, without the next-sentence task, it is far better.",
              "355 million parameters; 160 GB of text", "architecture-families", "liu2019roberta", ("BERT",), 355e6,
              None, True),
    Milestone("BART", "2019-10", "language",
              "An encoder-decoder that learns to repair corrupted text, and then summarizes and translates.", "",
              "architecture-families", "lewis2019bart", ("BERT", "GPT-2"), None, None, True),
    Milestone("T5", "2019-10", "language",
              "Every task becomes text to text: one encoder-decoder, one loss, one set of weights.",
              "up to 11 billion parameters; C4, about 750 GB", "architecture-families", "raffel2019t5", ("BERT",), 11e9,
              None, True),
    Milestone("Scaling laws", "2020-01", "efficiency",
              "The loss falls as a power of parameters, data and compute, over more than seven orders of magnitude.",
              "", "1.3", "kaplan2020scaling", ("GPT-2",)),
    Milestone("GPT-3", "2020-05", "language",
              "In-context learning: a few examples in the prompt take the place of fine-tuning.",
              "175 billion parameters; 300 billion tokens", "4.1.1", "brown2020gpt3", ("GPT-2", "Scaling laws"), 175e9,
              None, False),
    Milestone("RAG", "2020-05", "language",
              "A generator reads what a retriever found: knowledge outside the weights.", "", "4.4.1", "lewis2020rag",
              ("BART",), None, None, True),
    Milestone("Summaries from feedback", "2020-09", "alignment",
              "The three stages of RLHF on text: demonstrations, a reward model, PPO. People prefer the result to "
              "reference summaries.", "up to 6.7 billion parameters", "7.1.3", "stiennon2020summarize",
              ("RL from preferences", "PPO", "GPT-3"), 6.7e9),
    Milestone("ViT", "2020-10", "images",
              "An image is 16 x 16 patches, and a patch is a token: a plain Transformer classifies it.",
              "up to 632 million parameters", "1.1.4", "dosovitskiy2020vit", ("Transformer", "ResNet"), 632e6, None,
              True),
    Milestone("Switch Transformer", "2021-01", "efficiency",
              "One expert a token is enough; a simple loss keeps the load even.", "up to 1.6 trillion parameters",
              "moe", "fedus2021switch", ("Sparse experts", "T5"), 1.6e12, None, True),
    Milestone("DALL-E", "2021-02", "images",
              "Text and image are one sequence of tokens, written by one decoder.",
              "12 billion parameters; 250 million pairs", "clip-and-image-tokens", "ramesh2021dalle", ("GPT-3",), 12e9,
              None, False),
    Milestone("CLIP", "2021-03", "images",
              "Images and captions meet in one space. Naming a class in words is enough to recognize it.",
              "400 million pairs", "clip-and-image-tokens", "radford2021clip", ("ViT", "GPT-2"), None, None, True),
    Milestone("LoRA", "2021-06", "efficiency",
              "Fine-tuning trains two thin matrices beside each frozen one: 10,000 times fewer trained weights on "
              "GPT-3.", "", "2.1.2", "hu2021lora", ("GPT-3",)),
    Milestone("Codex", "2021-07", "language",
              "GPT fine-tuned on public code solves 28.8% of HumanEval's problems at the first try.",
              "12 billion parameters", "9.4.1", "chen2021codex", ("GPT-3",), 12e9, None, False),
    Milestone("Chain of thought", "2022-01", "alignment",
              "Examples that reason step by step let large models do so too, with no training at all.",
              "shown with PaLM, 540 billion parameters", "4.2.1", "wei2022cot", ("GPT-3",)),
    Milestone("InstructGPT", "2022-03", "alignment",
              "RLHF teaches GPT-3 to follow instructions: 1.3 billion parameters are preferred to the 175 billion of "
              "GPT-3.", "1.3, 6 and 175 billion parameters", "7.1.1", "ouyang2022instructgpt",
              ("GPT-3", "Summaries from feedback"), 175e9, None, False),
    Milestone("Chinchilla", "2022-03", "efficiency",
              "For a given compute, parameters and tokens should grow alike: models were too large and undertrained.",
              "70 billion parameters; 1.4 trillion tokens", "1.3", "hoffmann2022chinchilla", ("Scaling laws",), 70e9,
              None, False),
    Milestone("FlashAttention", "2022-05", "efficiency",
              "Exact attention in blocks that fit into fast memory; the T x T matrix is never stored.", "",
              "attention-variants", "dao2022flash", ("Transformer",)),
    Milestone("ChatGPT", "2022-11", "alignment",
              "A sibling of InstructGPT behind a chat window, open to everybody from 30 November.",
              "size not published", "chatgpt-case", "openai2022chatgpt", ("InstructGPT", "Codex"), None, None, False),
    Milestone("Constitutional AI", "2022-12", "alignment",
              "A list of principles and the model's own critique take the place of people's labels for harmlessness.",
              "", "7.5.2", "bai2022constitutional", ("InstructGPT",)),
    Milestone("LLaMA", "2023-02", "language",
              "Public data only, more tokens than Chinchilla would give: 13 billion weights beat GPT-3 on most tests.",
              "7 to 65 billion parameters; up to 1.4 trillion tokens", "llama", "touvron2023llama",
              ("GPT-3", "Chinchilla"), 65e9, None, True),
    Milestone("GPT-4", "2023-03", "language",
              "Reads images, too; the report predicts the final loss from runs with far less compute.",
              "size not published", "1.3", "openai2023gpt4", ("ChatGPT",), None, None, False),
    Milestone("LLaVA", "2023-04", "images",
              "A linear layer projects CLIP's patches into a language model; instructions are written by GPT-4.",
              "13 billion parameters", "1.1.4", "liu2023llava", ("CLIP", "LLaMA"), 13e9, None, True),
    Milestone("QLoRA", "2023-05", "efficiency",
              "The frozen weights in 4 bits: 65 billion parameters are fine-tuned on one card of 48 GB.", "", "2.1.3",
              "dettmers2023qlora", ("LoRA", "LLaMA")),
    Milestone("DPO", "2023-05", "alignment",
              "The same objective as RLHF, as a loss on pairs: no reward model, no sampling.",
              "up to 6 billion parameters", "3.1.3", "rafailov2023dpo", ("InstructGPT",), 6e9),
    Milestone("Llama 2", "2023-07", "language",
              "An open base model and an RLHF-trained chat model, described in detail; twice the context.",
              "7 to 70 billion parameters; 2 trillion tokens", "llama", "touvron2023llama2", ("LLaMA", "InstructGPT"),
              70e9, None, True),
    Milestone("vLLM", "2023-09", "efficiency",
              "The KV cache in pages, as an operating system keeps memory: 2 to 4 times the throughput.", "",
              "onnx-deployment", "kwon2023vllm", ("FlashAttention",)),
    Milestone("Mamba", "2023-12", "architecture",
              "A recurrent state again, selective and trained in parallel: linear in the length.",
              "up to 2.8 billion parameters", "roadmap-mlp-to-llm", "gu2023mamba", ("GRU", "Transformer"), 2.8e9, None,
              True),
    Milestone("Mixtral", "2024-01", "efficiency",
              "Two of eight experts a token, in an open model on the level of Llama 2 70B or above.",
              "47 billion parameters, 13 billion active", "moe", "jiang2024mixtral", ("Switch Transformer", "Llama 2"),
              47e9, 13e9, True),
    Milestone("GRPO", "2024-02", "alignment",
              "PPO without a critic: the baseline is the mean reward of a group of answers.", "7 billion parameters",
              "6.4.1", "shao2024deepseekmath", ("PPO", "InstructGPT"), 7e9, None, True),
    Milestone("DeepSeek-V2", "2024-05", "efficiency",
              "Multi-head latent attention makes the KV cache 93.3% smaller; fine-grained and shared experts.",
              "236 billion parameters, 21 billion active; 8.1 trillion tokens", "attention-variants", "deepseek2024v2",
              ("Mixtral",), 236e9, 21e9, True),
    Milestone("Chameleon", "2024-05", "images",
              "Images as discrete tokens among words, read and written by one model from the first layer on.",
              "7 and 34 billion parameters", "clip-and-image-tokens", "chameleon2024", ("DALL-E", "Llama 2"), 34e9,
              None, True),
    Milestone("Llama 3.1", "2024-07", "language",
              "A dense open model at the frontier; pre-training, fine-tuning and DPO described in full.",
              "8 to 405 billion parameters; 15.6 trillion tokens", "llama", "grattafiori2024llama3",
              ("Llama 2", "DPO"), 405e9, None, True),
    Milestone("Test-time compute", "2024-08", "efficiency",
              "Thinking longer can be worth more than a larger model; how much depends on how hard the question is.",
              "", "8.1.1", "snell2024testtime", ("Chain of thought", "Scaling laws")),
    Milestone("OpenAI o1", "2024-09", "alignment",
              "Reinforcement learning on long chains of thought: accuracy rises with training and with thinking time.",
              "size not published", "8.3.1", "openai2024o1", ("GPT-4", "Chain of thought", "Test-time compute"), None,
              None, False),
    Milestone("Tülu 3", "2024-11", "alignment",
              "An open recipe for post-training: fine-tuning, DPO, then reinforcement learning on verifiable rewards.",
              "8 and 70 billion parameters", "reward-design", "lambert2024tulu3", ("Llama 3.1", "DPO"), 70e9, None,
              True),
    Milestone("Qwen2.5", "2024-12", "language",
              "An open family from half a billion parameters up, many languages, and specialists for code and maths.",
              "0.5 to 72 billion parameters; 18 trillion tokens", "architecture-families", "qwen2024qwen25",
              ("LLaMA",), 72e9, None, True),
    Milestone("DeepSeek-V3", "2024-12", "efficiency",
              "Load balance without an auxiliary loss, 8-bit training: 2.788 million H800 hours in all.",
              "671 billion parameters, 37 billion active; 14.8 trillion tokens", "moe", "deepseek2024v3",
              ("DeepSeek-V2",), 671e9, 37e9, True),
    Milestone("DeepSeek-R1", "2025-01", "alignment",
              "Reasoning from reinforcement learning with rule-based rewards, weights and recipe published.",
              "671 billion parameters, 37 billion active", "8.3.3", "deepseek2025r1",
              ("DeepSeek-V3", "GRPO", "OpenAI o1"), 671e9, 37e9, True),
    Milestone("SmolLM2", "2025-02", "language",
              "Small and trained for long; its smallest member, 135 million parameters, is the model of this book.",
              "135 million to 1.7 billion parameters; about 11 trillion tokens", "1.1.1", "allal2025smollm2",
              ("Llama 3.1",), 1.7e9, None, True),
    Milestone("DAPO", "2025-03", "alignment",
              "Four repairs of GRPO for long answers, with code and data: 50 points on AIME 2024.",
              "32 billion parameters", "grpo-variants", "yu2025dapo", ("GRPO", "DeepSeek-R1", "Qwen2.5"), 32e9, None,
              True),
    Milestone("Qwen3", "2025-05", "language",
              "Thinking or answering directly, in one model, with a budget for thinking; dense models and experts.",
              "0.6 to 235 billion parameters, of those 22 billion active; 36 trillion tokens", "architecture-families",
              "yang2025qwen3", ("Qwen2.5", "DeepSeek-R1"), 235e9, 22e9, True),
    Milestone("Kimi K2", "2025-07", "efficiency",
              "A trillion parameters, trained with the Muon optimizer without a loss spike, then made an agent.",
              "1.04 trillion parameters, 32 billion active; 15.5 trillion tokens", "agents", "kimi2025k2",
              ("DeepSeek-V3",), 1.04e12, 32e9, True),
    Milestone("gpt-oss", "2025-08", "language",
              "OpenAI's first open weights for language since GPT-2: reasoning models with experts in 4 bits.",
              "117 billion parameters, 5.1 billion active", "quantization", "openai2025gptoss", ("OpenAI o1", "GPT-2"),
              117e9, 5.1e9, True),
    Milestone("Qwen3.5", "2026-02", "architecture",
              "Linear attention in three of four layers, full attention in the fourth, experts everywhere, images from "
              "the start.", "397 billion parameters, 17 billion active", "attention-variants", "qwen2026qwen35",
              ("Qwen3", "Mamba"), 397e9, 17e9, True),
    Milestone("DeepSeek-V4", "2026-04", "architecture",
              "Compressed attention and more than one residual stream: a million tokens of context with a tenth of "
              "V3.2's KV cache.", "1.6 trillion parameters, 49 billion active; more than 32 trillion tokens",
              "attention-variants", "deepseek2026v4", ("DeepSeek-R1",), 1.6e12, 49e9, True),
    Milestone("Kimi K3", "2026-07", "efficiency",
              "The largest open weights when it came out, on a linear attention of its own and attention over layers.",
              "2.8 trillion parameters, 104 billion active", "moe", "kimi2026k3", ("Kimi K2",), 2.8e12, 104e9, True),
)
# fmt: on

PAGES: dict[str, str] = {
    "1.1": "ch01_structure/large_model",
    "1.2": "ch01_structure/training_landscape",
    "1.3": "ch01_structure/scaling_laws",
    "2.1": "ch02_sft/fine_tuning",
    "2.4": "ch02_sft/practice",
    "3.1": "ch03_dpo/core_idea",
    "4.1": "ch04_training_free/prompting",
    "4.2": "ch04_training_free/chain_of_thought",
    "4.3": "ch04_training_free/decoding",
    "4.4": "ch04_training_free/retrieval",
    "6.3": "ch06_policy_optimization/ppo",
    "6.4": "ch06_policy_optimization/grpo",
    "7.1": "ch07_rlhf/overview",
    "7.5": "ch07_rlhf/ai_feedback",
    "8.1": "ch08_reasoning/overview",
    "8.3": "ch08_reasoning/reinforcement_learning",
    "9.4": "ch09_practice/evaluation",
    "roadmap-mlp-to-llm": "ch01_structure/roadmap",
    "architecture-families": "ch01_structure/families",
    "llama": "ch01_structure/families",
    "attention-variants": "ch01_structure/attention",
    "moe": "ch01_structure/experts",
    "clip-and-image-tokens": "ch01_structure/multimodal",
    "agents": "ch04_training_free/tools",
    "chatgpt-case": "ch07_rlhf/index",
    "reward-design": "ch08_reasoning/index",
    "grpo-variants": "ch06_policy_optimization/index",
    "quantization": "ch09_practice/index",
    "onnx-deployment": "ch09_practice/index",
}
"""Where the book holds a section or a topic, under book/; for what is not written yet, the chapter's own page."""


def address(section: str) -> str:
    """The page and the place on it, from the book's root; the page alone where the section has no place on it yet."""
    page = PAGES[section if section in PAGES else ".".join(section.split(".")[:2])]
    if page.endswith("/index"):
        return f"book/{page}.html"
    return f"book/{page}.html#" + (f"sec-{section.replace('.', '-')}" if section[0].isdigit() else f"topic-{section}")


def data() -> dict[str, Any]:
    """What the explorer timeline draws: the milestones by date, and the rows."""
    found = sorted(MILESTONES, key=lambda one: one.date)
    return {
        "subjects": [{"key": key, "title": title} for key, title in SUBJECTS.items()],
        "milestones": [
            one._asdict() | {"parents": list(one.parents), "address": address(one.section)} for one in found
        ],
        "start": {"name": "Transformer"},
    }
