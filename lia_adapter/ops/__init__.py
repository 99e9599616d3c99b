"""The operations that StyleGAN's layers are made of, behind signatures that no kernel will change.

Four functions: `bias_act` (bias, activation, gain, clamp), `upfirdn2d` (zero-stuff, pad, FIR filter, decimate),
`upfirdn2d_act` (a filter followed by the tail of a modulated convolution: the chain of an up-layer) and `modconv_epilogue`
(the same tail without the filter). Their reference path is plain torch and runs everywhere.
"""

from lia_adapter.ops.reference import (
    ACTIVATIONS,
    Activation,
    bias_act,
    modconv_epilogue,
    setup_filter,
    upfirdn2d,
    upfirdn2d_act,
)

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "bias_act",
    "modconv_epilogue",
    "setup_filter",
    "upfirdn2d",
    "upfirdn2d_act",
]
