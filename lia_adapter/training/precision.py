"""What the key `precision` of a recipe means."""

import torch

__all__ = ["precision_of"]


def precision_of(name: str, device: torch.device) -> tuple[torch.dtype, bool]:
    """The dtype of weights, and whether convolutions run in bfloat16 by autocast.

    Args:
        name: One of `lia_adapter.config.PRECISIONS`; "auto" is bfloat16 on GPUs that compute in it, and float32 elsewhere.
        device: Where it is trained.
    """
    if name == "auto":
        half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        half = name == "bfloat16"
    return torch.float64 if name == "float64" else torch.float32, half
