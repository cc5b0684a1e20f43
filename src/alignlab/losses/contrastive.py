"""Contrastive losses for pairs of a picture and its text: CLIP's softmax over a batch, SigLIP's sigmoid per pair.

They know embeddings, and no model. Row i of both belongs together; every other combination of the batch does not.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def similarities(images: Tensor, texts: Tensor) -> Tensor:
    """Cosines of all combinations: images (B, e) and texts (B', e) of any length -> (B, B'), -1 to 1."""
    if images.dim() != 2 or texts.dim() != 2 or images.shape[1] != texts.shape[1]:
        raise ValueError(f"images {tuple(images.shape)} and texts {tuple(texts.shape)}: expected (B, e) and (B', e)")
    return F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T


def clip_loss(images: Tensor, texts: Tensor, scale: Tensor | float) -> Tensor:
    """CLIP's symmetric cross-entropy, Radford et al. (2021), figure 3: each picture finds its text, and the reverse.

    images, texts: embeddings (B, e), normalized here. scale: what cosines are multiplied by, 1 over the temperature,
    > 0. Returns the loss of each pair, (B,), in nats; their mean is the paper's. A scorer that knows nothing has log B.
    """
    _paired(images, texts)
    logits = scale * similarities(images, texts)  # (B, B): a picture in each row, a text in each column
    own = torch.arange(len(logits), device=logits.device)
    to_text = F.cross_entropy(logits, own, reduction="none")
    to_image = F.cross_entropy(logits.T, own, reduction="none")
    return (to_text + to_image) / 2


def siglip_loss(images: Tensor, texts: Tensor, scale: Tensor | float, bias: Tensor | float) -> Tensor:
    """SigLIP's loss, Zhai et al. (2023), eq. 1: each combination is a yes-or-no question of its own.

    images, texts, scale: as in clip_loss. bias: added to every logit (-10 at the start, in the paper), since nearly
    all answers are no. Returns for each picture the sum over the batch's texts, (B,), in nats.
    """
    _paired(images, texts)
    logits = scale * similarities(images, texts) + bias
    belongs = 2 * torch.eye(len(logits), device=logits.device, dtype=logits.dtype) - 1  # 1 for a pair, -1 for any other
    return -F.logsigmoid(belongs * logits).sum(-1)


def _paired(images: Tensor, texts: Tensor) -> None:
    if images.shape != texts.shape or len(images) < 2:
        raise ValueError(
            f"images {tuple(images.shape)} and texts {tuple(texts.shape)}: row i of both is a pair, so give as many of "
            "each, two or more"
        )
