"""Patches, encoders, splicing, codes and contrastive losses against loops, finite differences and peers."""

import math
import random
from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alignlab.architectures.vision import (
    CLIP,
    IMAGE,
    PatchEncoder,
    Quantized,
    VisionLanguageModel,
    kmeans,
    nearest,
    patchify,
    quantize,
    splice,
    unpatchify,
)
from alignlab.losses.contrastive import clip_loss, siglip_loss, similarities
from alignlab.tasks import pictures
from alignlab.transformer import Config, Transformer


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def config(vocabulary: int = 1, width: int = 16) -> Config:
    return Config(vocabulary, width, 24, 2, 2, 2, width // 2, max_position_embeddings=64)


# -- patches ----------------------------------------------------------------------------------------------------


def check_patchify(cut: Callable[[Tensor, int], Tensor]) -> None:
    images = normal(2, 3, 4, 6)
    patches = cut(images, 2)
    assert patches.shape == (2, 6, 12)
    for b, row, column in product(range(2), range(2), range(3)):
        numbers = [
            images[b, channel, 2 * row + y, 2 * column + x] for channel, y, x in product(range(3), range(2), range(2))
        ]
        assert torch.equal(patches[b, 3 * row + column], torch.stack(numbers))


def test_patches_are_read_row_by_row_and_channel_first() -> None:
    check_patchify(patchify)


WRONG_PATCHES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "a plain reshape": lambda images, size: images.reshape(len(images), 6, 12),
    "columns first": lambda images, size: patchify(images.transpose(2, 3), size),
    "channels last": lambda images, size: (
        patchify(images, size).reshape(2, 6, 3, 2, 2).permute(0, 1, 3, 4, 2).reshape(2, 6, 12)
    ),
}


@pytest.mark.parametrize("name", WRONG_PATCHES)
def test_wrong_patches_are_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_patchify(WRONG_PATCHES[name])


def test_a_linear_layer_on_patches_is_a_convolution_with_the_patch_as_stride() -> None:
    images, weight, bias = normal(2, 3, 12, 12), normal(5, 3, 4, 4, seed=1), normal(5, seed=2)
    by_convolution = F.conv2d(images, weight, bias, stride=4).flatten(2).transpose(1, 2)
    assert torch.allclose(patchify(images, 4) @ weight.flatten(1).T + bias, by_convolution)


def test_unpatchify_undoes_patchify() -> None:
    images = normal(2, 3, 12, 12)
    assert torch.equal(unpatchify(patchify(images, 4), 4), images)


def test_pictures_that_do_not_divide_into_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="do not divide into patches of 5 x 5"):
        patchify(normal(1, 3, 12, 12), 5)
    with pytest.raises(ValueError, match="no square picture"):
        unpatchify(normal(1, 8, 12), 2)


# -- the encoder ------------------------------------------------------------------------------------------------


def encoder() -> PatchEncoder:
    torch.manual_seed(0)
    made = PatchEncoder(config(), side=8, size=4).double()
    made.body.initialize(0.3)
    return made


def test_the_patch_encoder_reads_in_both_directions() -> None:
    made, images = encoder(), normal(1, 3, 8, 8).requires_grad_()
    for state in range(5):
        (gradient,) = torch.autograd.grad(made(images)[0, state].sum(), images)
        reached = patchify(gradient, 4).abs().sum(-1)
        assert (reached > 0).all(), f"state {state} does not depend on every patch"


def test_without_positions_the_order_of_patches_means_nothing_and_with_them_it_does() -> None:
    made, images = encoder(), normal(1, 3, 8, 8)
    turned = unpatchify(patchify(images, 4)[:, [2, 0, 3, 1]], 4)
    assert not torch.allclose(made(images)[:, 0], made(turned)[:, 0])
    made.positions.data.zero_()
    assert torch.allclose(made(images)[:, 0], made(turned)[:, 0])
    assert torch.allclose(made(images)[:, 1:][:, [2, 0, 3, 1]], made(turned)[:, 1:])


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="9 patches; this encoder was made for 4"):
        encoder()(normal(1, 3, 12, 12))
    with pytest.raises(ValueError, match="vocab_size is 7"):
        PatchEncoder(config(7), 8, 4)


# -- CLIP -------------------------------------------------------------------------------------------------------

Loss = Callable[[Tensor, Tensor, float], Tensor]


def check_clip(loss: Loss) -> None:
    """The definition in plain loops, on vectors of any length, for two scales."""
    images, texts = normal(4, 3) * torch.tensor([[0.2], [1.0], [3.0], [1.0]]), normal(4, 3, seed=1)
    for scale in (1.0, 14.3):
        cosine = [[float(u @ v / (u.norm() * v.norm())) for v in texts] for u in images]
        want = []
        for i in range(4):
            row = sum(math.exp(scale * cosine[i][j]) for j in range(4))
            column = sum(math.exp(scale * cosine[j][i]) for j in range(4))
            own = math.exp(scale * cosine[i][i])
            want.append(-(math.log(own / row) + math.log(own / column)) / 2)
        assert torch.allclose(loss(images, texts, scale), torch.tensor(want, dtype=torch.float64))


def test_clip_loss_equals_its_definition() -> None:
    check_clip(clip_loss)


def _one_direction(images: Tensor, texts: Tensor, scale: float) -> Tensor:
    return F.cross_entropy(scale * similarities(images, texts), torch.arange(len(images)), reduction="none")


def _not_normalized(images: Tensor, texts: Tensor, scale: float) -> Tensor:
    logits, own = scale * images @ texts.T, torch.arange(len(images))
    return (F.cross_entropy(logits, own, reduction="none") + F.cross_entropy(logits.T, own, reduction="none")) / 2


WRONG_CLIP: dict[str, Loss] = {
    "pictures only": _one_direction,
    "texts only": lambda images, texts, scale: _one_direction(texts, images, scale),
    "temperature for scale": lambda images, texts, scale: clip_loss(images, texts, 1 / scale),
    "sum of both": lambda images, texts, scale: 2 * clip_loss(images, texts, scale),
    "not normalized": _not_normalized,
    "pairs shifted": lambda images, texts, scale: clip_loss(images, texts.roll(1, 0), scale),
}


@pytest.mark.parametrize("name", WRONG_CLIP)
def test_a_wrong_clip_loss_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_clip(WRONG_CLIP[name])


def test_clip_loss_equals_that_of_transformers() -> None:
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    images, texts = normal(6, 4), normal(6, 4, seed=1)
    theirs = image_text_contrastive_loss(20.0 * F.normalize(texts, dim=-1) @ F.normalize(images, dim=-1).T)
    assert torch.allclose(clip_loss(images, texts, 20.0).mean(), theirs)


def test_clip_loss_of_one_vector_for_everything_is_log_of_the_batch() -> None:
    same = torch.ones(8, 3, dtype=torch.float64)
    assert torch.allclose(clip_loss(same, same, 50.0), torch.full((8,), math.log(8), dtype=torch.float64))


def test_siglip_loss_equals_its_definition_in_loops() -> None:
    images, texts, scale, bias = normal(4, 3), normal(4, 3, seed=1), 10.0, -3.0
    cosine = similarities(images, texts)
    for i in range(4):
        want = sum(
            math.log(1 + math.exp(-(1 if i == j else -1) * (scale * float(cosine[i, j]) + bias))) for j in range(4)
        )
        assert siglip_loss(images, texts, scale, bias)[i].item() == pytest.approx(want)


def test_losses_refuse_rows_that_are_no_pairs() -> None:
    for loss in (clip_loss, lambda u, v, s: siglip_loss(u, v, s, 0.0)):
        with pytest.raises(ValueError, match="row i of both is a pair"):
            loss(normal(3, 4), normal(2, 4), 1.0)
        with pytest.raises(ValueError, match="two or more"):
            loss(normal(1, 4), normal(1, 4), 1.0)
    with pytest.raises(ValueError, match="expected"):
        similarities(normal(3, 4), normal(3, 5))


def test_clip_texts_do_not_see_their_padding_and_vectors_have_length_one() -> None:
    torch.manual_seed(0)
    model = CLIP(PatchEncoder(config(), 8, 4), Transformer(config(9)), 5)
    ids = torch.tensor([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]])
    found = model.texts(ids, torch.tensor([3, 5]))
    assert torch.allclose(found[:1], model.texts(ids[:1, :3], torch.tensor([3])), atol=1e-6)
    assert torch.allclose(found.norm(dim=-1), torch.ones(2))
    assert torch.allclose(model.images(torch.rand(2, 3, 8, 8)).norm(dim=-1), torch.ones(2))
    assert model.scale.item() == pytest.approx(1 / 0.07)
    model.log_scale.data.fill_(9.0)
    assert model.scale.item() == 100


# -- a picture in a row -----------------------------------------------------------------------------------------

Splice = Callable[[Tensor, Tensor, Tensor], Tensor]
ROWS = torch.tensor([[5, IMAGE, IMAGE, 7], [IMAGE, 5, 6, IMAGE]])


def check_splice(put: Splice) -> None:
    embedded, vectors = normal(2, 4, 3), normal(2, 2, 3, seed=1)
    out = put(embedded.clone(), ROWS == IMAGE, vectors)
    want = embedded.clone()
    for row in range(2):
        for k, column in enumerate([c for c in range(4) if ROWS[row, c] == IMAGE]):
            want[row, column] = vectors[row, k]
    assert torch.equal(out, want)


def test_patches_stand_in_their_places_in_order() -> None:
    check_splice(splice)


WRONG_SPLICE: dict[str, Splice] = {
    "at the start": lambda embedded, here, vectors: torch.cat([vectors, embedded[:, 2:]], 1),
    "in reverse": lambda embedded, here, vectors: splice(embedded, here, vectors.flip(1)),
    "pictures swapped": lambda embedded, here, vectors: splice(embedded, here, vectors.flip(0)),
    "added": lambda embedded, here, vectors: splice(embedded, here, vectors) + embedded * here[..., None],
}


@pytest.mark.parametrize("name", WRONG_SPLICE)
def test_a_wrong_splice_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_splice(WRONG_SPLICE[name])


def test_a_wrong_number_of_places_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[2\] places for 3 patches"):
        splice(normal(2, 4, 3), ROWS == IMAGE, normal(2, 3, 3))


def vision_language_model() -> VisionLanguageModel:
    torch.manual_seed(0)
    made = VisionLanguageModel(PatchEncoder(config(), 8, 4), Transformer(config(11, 12)))
    made.decoder.initialize(0.3)
    return made


def test_without_a_picture_the_model_is_its_decoder_and_with_one_it_is_not() -> None:
    model, ids = vision_language_model(), torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(model(ids), model.decoder(ids))
    seen = torch.tensor([[1, *[IMAGE] * 4, 2]])
    images = torch.rand(2, 3, 8, 8)
    assert not torch.allclose(model(seen, images[:1])[:, -1], model(seen, images[1:])[:, -1])
    with pytest.raises(ValueError, match="4 places for patches, and no pictures"):
        model(seen)


def test_greedy_descriptions_equal_those_without_a_cache() -> None:
    model, images, prompt, stop = vision_language_model(), torch.rand(3, 3, 8, 8), [1, *[IMAGE] * 4, 2], 5
    found = model.describe(prompt, images, stop, most=6)
    for image, row in zip(images, found, strict=True):
        ids: list[int] = []
        while len(ids) < 6:
            token = int(model(torch.tensor([prompt + ids]), image[None])[0, -1].argmax())
            if token == stop:
                break
            ids.append(token)
        assert row == ids


def test_transformers_llama_reads_our_patches_alike() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = vision_language_model()
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=11, hidden_size=12, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, head_dim=6, rms_norm_eps=1e-5, tie_word_embeddings=True,
        )
    )  # fmt: skip
    state = {f"model.{name}" if name != "lm_head.weight" else name: x for name, x in model.decoder.state_dict().items()}
    theirs.load_state_dict(state)
    ids, images = torch.tensor([[1, *[IMAGE] * 4, 2, 3]]), torch.rand(1, 3, 8, 8)
    assert torch.allclose(theirs(inputs_embeds=model.inputs(ids, images)).logits, model(ids, images), atol=1e-5)


# -- codes ------------------------------------------------------------------------------------------------------


def check_quantize(by: Callable[[Tensor, Tensor], Quantized]) -> None:
    vectors, codebook, pull = normal(7, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_(), normal(7, 3, seed=2)
    found = by(vectors, codebook)
    for i in range(7):
        far = [float((vectors[i] - code).square().sum()) for code in codebook]
        best = min(range(4), key=far.__getitem__)
        assert found.codes[i] == best
        assert torch.allclose(found.vectors[i], codebook[best])
        assert found.codebook[i].item() == pytest.approx(far[best])
        assert found.commitment[i].item() == pytest.approx(far[best])

    def gradients(value: Tensor) -> list[Tensor]:
        parts = torch.autograd.grad(value, (vectors, codebook), retain_graph=True, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for g, x in zip(parts, (vectors, codebook), strict=True)]

    through = gradients((found.vectors * pull).sum())
    assert torch.allclose(through[0], pull) and not through[1].any()
    moves_codes, moves_vectors = gradients(found.codebook.sum()), gradients(found.commitment.sum())
    assert not moves_codes[0].any() and moves_codes[1].any()
    assert moves_vectors[0].any() and not moves_vectors[1].any()
    assert torch.allclose(moves_vectors[0], 2 * (vectors - codebook[found.codes]))


def test_quantize_equals_its_definition_and_its_gradients_go_where_the_paper_sends_them() -> None:
    check_quantize(quantize)


def _cut(vectors: Tensor, codebook: Tensor) -> Quantized:
    right = quantize(vectors, codebook)
    return right._replace(vectors=codebook[right.codes])


def _swapped(vectors: Tensor, codebook: Tensor) -> Quantized:
    right = quantize(vectors, codebook)
    return right._replace(codebook=right.commitment, commitment=right.codebook)


def _by_the_largest_product(vectors: Tensor, codebook: Tensor) -> Quantized:
    codes = (vectors @ codebook.T).argmax(-1)
    chosen = codebook[codes]
    return Quantized(
        codes,
        vectors + (chosen - vectors).detach(),
        (chosen - vectors.detach()).square().sum(-1),
        (chosen.detach() - vectors).square().sum(-1),
    )


WRONG_QUANTIZE: dict[str, Callable[[Tensor, Tensor], Quantized]] = {
    "no straight-through": _cut,
    "stop-gradients swapped": _swapped,
    "largest product for nearest": _by_the_largest_product,
}


@pytest.mark.parametrize("name", WRONG_QUANTIZE)
def test_a_wrong_quantizer_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_quantize(WRONG_QUANTIZE[name])


def test_codes_equal_those_of_chameleons_quantizer() -> None:
    from transformers.models.chameleon.configuration_chameleon import ChameleonVQVAEConfig
    from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAEVectorQuantizer

    theirs = ChameleonVQVAEVectorQuantizer(ChameleonVQVAEConfig(embed_dim=4, num_embeddings=16))
    theirs.embedding.weight.data = normal(16, 4, dtype=torch.float32)
    states = normal(2, 4, 3, 3, seed=1, dtype=torch.float32)
    _, _, codes = theirs(states)
    assert torch.equal(codes.view(2, 9), nearest(states.flatten(2).transpose(1, 2), theirs.embedding.weight))


def test_kmeans_finds_separate_heaps_and_no_step_makes_it_worse() -> None:
    heaps = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    points = (heaps[:, None] + 0.1 * normal(4, 50, 2, dtype=torch.float32)).flatten(0, 1)
    for seed in range(5):
        codebook = kmeans(points, 4, 5, seed)
        assert torch.cdist(heaps, codebook).min(1).values.max() < 0.1
    wide = normal(500, 3, dtype=torch.float32)

    def error(steps: int) -> float:
        codebook = kmeans(wide, 8, steps)
        return (wide - codebook[nearest(wide, codebook)]).square().sum(-1).mean().item()

    errors = [error(steps) for steps in (0, 1, 3, 10)]
    assert errors == sorted(errors, reverse=True)
    codebook = kmeans(wide, 8, 100)
    codes = nearest(wide, codebook)
    means = torch.stack([wide[codes == k].mean(0) for k in range(8)])
    assert torch.allclose(means, codebook, atol=1e-4), "at the end each code is the mean of its points"
    with pytest.raises(ValueError, match="k is 9"):
        kmeans(wide[:8], 9)


# -- the pictures -----------------------------------------------------------------------------------------------


def test_every_caption_has_scenes_and_a_scene_has_one_caption() -> None:
    every = list(pictures.captions())
    assert len(every) == len(set(every)) == 1392
    rng = random.Random(0)
    for text in every:
        assert pictures.shows(pictures.scene(text, rng), text)
        assert len(pictures.word_ids(text)) == len(text.split()) <= 8


def test_splits_cover_everything_and_training_never_holds_an_unseen_name() -> None:
    parts = [list(pictures.captions(split)) for split in ("train", "held-out", "unseen")]
    assert sum(map(len, parts)) == 1392 and len(set().union(*parts)) == 1392
    for text in parts[0] + parts[1]:
        assert not set(pictures.names_in(text)) & set(pictures.UNSEEN)
    trained = {word for text in parts[0] for word in text.split()}
    assert trained == set(pictures.WORDS), "every word of an unseen name is trained in other company"


def test_what_is_drawn_is_read_back_exactly() -> None:
    rng = random.Random(1)
    texts = [text for text in pictures.captions() if rng.random() < 0.25]
    scenes = [pictures.scene(text, rng) for text in texts]
    for scene, picture in zip(scenes, pictures.draw(scenes, 2), strict=True):
        assert pictures.read(picture) == scene


def test_the_rule_rejects_what_is_nearly_right() -> None:
    red, blue = pictures.Thing(0, 0, "red", "circle"), pictures.Thing(0, 2, "blue", "square")
    assert pictures.caption([red, blue]) == "a red circle left of a blue square"
    assert not pictures.shows([red, blue], "a blue square left of a red circle")
    assert not pictures.shows([red, blue], "a red circle at the upper left")
    assert pictures.caption([red]) == "a red circle at the upper left"
    askew = pictures.Thing(1, 2, "blue", "square")
    assert pictures.caption([red, askew]) is None and pictures.caption([]) is None
    below = pictures.Thing(2, 0, "blue", "square")
    assert pictures.caption([below, red]) == "a red circle above a blue square"
    blot = pictures.Thing(0, 0, "red", pictures.BLOT)
    assert pictures.caption([blot]) is None
    noise = torch.full((3, 24, 24), pictures.GROUND)
    noise[0, 0:6, 0:2] = 0.9
    assert pictures.read(noise) == (blot,)


def test_bad_pictures_and_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="is no caption"):
        pictures.scene("a red circle under a blue square", random.Random(0))
    with pytest.raises(ValueError, match="holds pink"):
        pictures.word_ids("a pink circle")
    with pytest.raises(ValueError, match="expected"):
        pictures.read(torch.zeros(3, 12, 12))
