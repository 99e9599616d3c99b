"""A two-sample test by a classifier (Lopez-Paz & Oquab 2017): can a small network tell two sets apart?"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["classifier_accuracy"]

_MOST = 100.0  # entries further out count as that: they tell sets apart anyhow, and larger ones would make the network overflow


def classifier_accuracy(a: Tensor, b: Tensor, *, width: int = 256, epochs: int = 10, seed: int = 0) -> float:
    """Trains a small network on half of each set and returns its accuracy on the other half, in 0..1.

    0.5 is chance: nothing in the vectors tells the sets apart that such a network could learn from so few samples.

    Args:
        a: [N, D], of about unit variance; entries that are far larger, or not finite, count as large ones.
        b: [N, D].
        width: Hidden units of the two hidden layers.
        epochs: Passes over the training half.
        seed: Of the initialisation and the order of the samples.
    """
    a, b = (x.nan_to_num(nan=_MOST).clamp(-_MOST, _MOST) for x in (a, b))
    half = min(len(a), len(b)) // 2
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed a GPU, too
        network = nn.Sequential(
            nn.Linear(a.shape[1], width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, 1),
        ).to(a)
    train = torch.cat([a[:half], b[:half]])
    target = torch.cat([torch.zeros(half), torch.ones(half)]).to(a)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    order = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        for _ in range(epochs):
            for batch in torch.randperm(len(train), generator=order).split(256):
                loss = F.binary_cross_entropy_with_logits(network(train[batch])[:, 0], target[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    with torch.no_grad():
        right = (network(a[half : 2 * half]) < 0).sum() + (network(b[half : 2 * half]) >= 0).sum()
    return float(right) / (2 * half)
