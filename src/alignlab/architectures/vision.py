"""Pictures for a decoder: patches and their encoder, CLIP's two towers, a vision-language model, pictures as tokens.

Every network here is the `Transformer` with another input: vectors in place of looked-up rows, another mask. Knows
nothing about losses or training.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignlab.transformer import Config, Transformer

IMAGE = -1
"""The id that stands where a patch goes in a row of token ids; no tokenizer gives it."""


def patchify(images: Tensor, size: int) -> Tensor:
    """Cut pictures (B, C, H, W) into patches, row by row: (B, n, C size^2), n = H W / size^2.

    Dosovitskiy et al. (2020), section 3.1. Within a patch the order is channel, row, column. ValueError where patches
    do not fill the picture.
    """
    if images.dim() != 4 or images.shape[2] % size or images.shape[3] % size:
        raise ValueError(
            f"pictures of shape {tuple(images.shape)} do not divide into patches of {size} x {size} pixels"
        )
    batch, channels, height, width = images.shape
    grid = images.reshape(batch, channels, height // size, size, width // size, size)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * size * size)


def unpatchify(patches: Tensor, size: int, channels: int = 3) -> Tensor:
    """The inverse of patchify for square pictures: (B, n, C size^2) -> (B, C, H, H)."""
    batch, count, numbers = patches.shape
    side = math.isqrt(count)
    if side * side != count or numbers != channels * size * size:
        raise ValueError(f"{count} patches of {numbers} numbers are no square picture of {size} x {size} patches")
    grid = patches.reshape(batch, side, side, channels, size, size)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, side * size, side * size)


class PatchEncoder(nn.Module):
    """A vision transformer, Dosovitskiy et al. (2020), eq. 1-4: patches and one class token read each other.

    The body is our decoder without its causal mask, its rotation (all positions 0) and its output head; its table of
    tokens has one row, the class token. Where a patch lies is learned: `positions`.
    """

    def __init__(self, config: Config, side: int, size: int, channels: int = 3) -> None:
        super().__init__()
        if config.vocab_size != 1:
            raise ValueError(f"vocab_size is {config.vocab_size}; a patch encoder's only token is the class token: 1")
        self.size = size
        self.patch = nn.Linear(channels * size * size, config.hidden_size)
        self.positions = nn.Parameter(0.02 * torch.randn(1 + (side // size) ** 2, config.hidden_size))
        self.body = Transformer(config)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 1 + n, d): the class token's state, then each patch's."""
        patches = self.patch(patchify(images, self.size))
        if patches.shape[1] + 1 != len(self.positions):
            raise ValueError(f"{patches.shape[1]} patches; this encoder was made for {len(self.positions) - 1}")
        start = self.body.embed_tokens.weight.expand(len(images), 1, -1)
        x = torch.cat([start, patches], 1) + self.positions
        length = x.shape[1]
        everyone = torch.ones(1, 1, length, length, dtype=torch.bool, device=x.device)
        return self.body.states(x, torch.zeros(1, length, dtype=torch.long, device=x.device), everyone)


class CLIP(nn.Module):
    """Two encoders into one space, Radford et al. (2021), section 2.4 and figure 3.

    image_encoder: its class token's state stands for the picture. text_encoder: a causal Transformer, whose state at
    a text's last token stands for the text. Both are projected linearly to `size` numbers.
    """

    def __init__(self, image_encoder: PatchEncoder, text_encoder: Transformer, size: int) -> None:
        super().__init__()
        self.image_encoder, self.text_encoder = image_encoder, text_encoder
        self.image_projection = nn.Linear(image_encoder.body.config.hidden_size, size, bias=False)
        self.text_projection = nn.Linear(text_encoder.config.hidden_size, size, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by: learned, at most 100."""
        return self.log_scale.exp().clamp(max=100.0)

    def images(self, images: Tensor) -> Tensor:
        """Embeddings of length 1, (B, size), of pictures (B, C, H, W)."""
        return F.normalize(self.image_projection(self.image_encoder(images)[:, 0]), dim=-1)

    def texts(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings of length 1, (B, size), of texts (B, T) padded on the right, with `lengths` (B,) tokens each."""
        states = self.text_encoder.hidden(input_ids)  # causal: a text's last token does not see its padding
        last = states[torch.arange(len(states), device=states.device), lengths - 1]
        return F.normalize(self.text_projection(last), dim=-1)


def splice(embedded: Tensor, here: Tensor, vectors: Tensor) -> Tensor:
    """Put vectors (B, n, d) in place of the rows of embedded (B, T, d) where here (B, T) is True, in order.

    ValueError unless each row of the batch has n such places: silently shifted patches would be hard to notice.
    """
    counts = here.sum(-1)
    if len(embedded) != len(vectors) or bool((counts != vectors.shape[1]).any()):
        raise ValueError(
            f"rows have {sorted(set(counts.tolist()))} places for {vectors.shape[1]} patches; "
            f"{len(embedded)} rows and {len(vectors)} pictures: give each row one picture, and a place for each patch"
        )
    return embedded.masked_scatter(here[..., None], vectors.to(embedded.dtype))


class VisionLanguageModel(nn.Module):
    """A decoder that reads pictures, as LLaVA does, Liu et al. (2023): encoder, projector, language model.

    The projector is the two-layer network of LLaVA-1.5. A picture's patches take the places of IMAGE in the row of ids.
    """

    def __init__(self, encoder: PatchEncoder, decoder: Transformer) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        inner, outer = encoder.body.config.hidden_size, decoder.config.hidden_size
        self.projector = nn.Sequential(nn.Linear(inner, outer), nn.GELU(), nn.Linear(outer, outer))

    def inputs(self, input_ids: Tensor, images: Tensor | None) -> Tensor:
        """(B, T) ids with IMAGE for each patch, and pictures (B, C, H, W) -> the decoder's input, (B, T, d)."""
        here = input_ids == IMAGE
        embedded = self.decoder.embed_tokens(input_ids.clamp(min=0))
        if images is None:
            if bool(here.any()):
                raise ValueError(f"{int(here.sum())} places for patches, and no pictures")
            return embedded
        return splice(embedded, here, self.projector(self.encoder(images)[:, 1:]))

    def hidden(self, input_ids: Tensor, images: Tensor | None = None) -> Tensor:
        """The decoder's last states, (B, T, d); rows are padded on the right, which nobody before it sees."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        return self.decoder.states(self.inputs(input_ids, images), positions)

    def forward(self, input_ids: Tensor, images: Tensor | None = None) -> Tensor:
        """Next-token logits, (B, T, V)."""
        return self.decoder.lm_head(self.hidden(input_ids, images))

    @torch.no_grad()
    def describe(self, prompt: list[int], images: Tensor, stop: int, most: int = 32) -> list[list[int]]:
        """Greedy answers to one prompt (ids with IMAGE places) about each picture, without their stop token."""
        batch = len(images)
        ids = torch.tensor([prompt], device=images.device).expand(batch, -1)
        cache = self.decoder.cache(batch, len(prompt) + most)
        x, positions = self.inputs(ids, images), torch.arange(len(prompt), device=images.device)[None]
        running = torch.ones(batch, dtype=torch.bool, device=images.device)
        written: list[Tensor] = []
        for _ in range(most):
            last = self.decoder.states(x, positions, cache=cache)[:, -1]
            token = self.decoder.lm_head(last).argmax(-1)
            token = torch.where(running, token, stop)
            written.append(token)
            running = running & (token != stop)
            if not bool(running.any()):
                break
            x, positions = self.decoder.embed_tokens(token)[:, None], positions[:, -1:] + 1
        rows = torch.stack(written, 1).tolist()
        return [row[: row.index(stop)] if stop in row else row for row in rows]


class Quantized(NamedTuple):
    """Vectors replaced by their nearest codes.

    codes: (...,) indices. vectors: (..., e), the codes' values; backwards, the gradient goes straight through to the
    input. codebook, commitment: squared distances (...,) that move the codes to the vectors, and the reverse.
    """

    codes: Tensor
    vectors: Tensor
    codebook: Tensor
    commitment: Tensor


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Indices (...,) of the codes (K, e) nearest to vectors (..., e); van den Oord et al. (2017), eq. 1."""
    if vectors.shape[-1] != codebook.shape[-1]:
        raise ValueError(f"vectors of {vectors.shape[-1]} numbers, codes of {codebook.shape[-1]}")
    # |v - c|^2 = |v|^2 - 2 v.c + |c|^2, and |v|^2 is the same for all codes
    return (codebook.square().sum(-1) - 2 * vectors @ codebook.T).argmin(-1)


def quantize(vectors: Tensor, codebook: Tensor) -> Quantized:
    """Vector quantization with the straight-through gradient, van den Oord et al. (2017), eq. 1-3.

    vectors: (..., e) of an encoder. codebook: (K, e). The paper's loss is reconstruction + codebook + 0.25 commitment.
    """
    codes = nearest(vectors, codebook)
    chosen = codebook[codes]
    return Quantized(
        codes,
        vectors + (chosen - vectors).detach(),
        (chosen - vectors.detach()).square().sum(-1),
        (chosen.detach() - vectors).square().sum(-1),
    )


@torch.no_grad()
def kmeans(points: Tensor, k: int, steps: int = 20, seed: int = 0) -> Tensor:
    """A codebook (k, e) for points (n, e), Lloyd (1982): assign to the nearest, move to the mean, repeat.

    It starts from k of the points, each drawn in proportion to its squared distance from those drawn before (Arthur and
    Vassilvitskii, 2007). A code that nothing is nearest to moves to the point that is farthest from its own code.
    """
    if not 0 < k <= len(points):
        raise ValueError(f"k is {k}; it must be 1 to the number of points, {len(points)}")
    generator = torch.Generator().manual_seed(seed)
    first = int(torch.randint(len(points), (), generator=generator))
    codebook = points[first : first + 1].clone()
    apart = (points - codebook).square().sum(-1)
    for _ in range(k - 1):
        weights = apart.clamp(min=0) + 1e-12
        index = int(torch.multinomial(weights.cpu(), 1, generator=generator))
        codebook = torch.cat([codebook, points[index : index + 1]])
        apart = torch.minimum(apart, (points - points[index]).square().sum(-1))
    for _ in range(steps):
        codes = nearest(points, codebook)
        counts = torch.bincount(codes, minlength=k).to(points)
        means = torch.zeros_like(codebook).index_add_(0, codes, points) / counts.clamp(min=1)[:, None]
        empty = counts == 0
        if bool(empty.any()):
            far = (points - codebook[codes]).square().sum(-1).topk(int(empty.sum())).indices
            means[empty] = points[far]
        codebook = means
    return codebook
