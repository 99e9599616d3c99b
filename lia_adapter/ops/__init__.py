"""The operations that StyleGAN's layers are made of, behind signatures that no kernel will change.

Five functions: `bias_act` (bias, activation, gain, clamp), `upfirdn2d` (zero-stuff, pad, FIR filter, decimate),
`upfirdn2d_act` (a filter followed by the tail of a modulated convolution: the chain of an up-layer) and `modconv_epilogue`
(the same tail without the filter), `filtered_lrelu` (StyleGAN3's activation between two filters). `status` tells what they
run as, and `using` chooses it for a while. Fused kernels for the CPU and CUDA are compiled at first use; where that is not
possible, the reference path in plain torch runs everywhere.
"""

from lia_adapter.ops.functions import bias_act, filtered_lrelu, modconv_epilogue, upfirdn2d, upfirdn2d_act
from lia_adapter.ops.native import status, using
from lia_adapter.ops.patch import patch
from lia_adapter.ops.reference import ACTIVATIONS, Activation, setup_filter

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "bias_act",
    "filtered_lrelu",
    "modconv_epilogue",
    "patch",
    "setup_filter",
    "status",
    "upfirdn2d",
    "upfirdn2d_act",
    "using",
]
