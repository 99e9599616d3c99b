"""The invertible mapping: y = φ⁻¹(z), z = φ(y), exactly, with log-determinants (LIA, sec. 3.1).

    z ⇄ core ⇄ u ⇄ v = (u - centre) @ white.T ⇄ w = v · scale · |v|^(power - 1) ⇄ y = w @ colour.T + offset + c @ class_shift

all [N, y_dim]. What follows the core is measured, not trained: the affine steps carry y's mean and covariance, which LIA's
volume-preserving couplings cannot reach, the radial one the spread of its distance from the mean. The core bends z into
u. There are four to fit:

- `flow`: affine couplings that split y's principal components anew each time (RealNVP; Dinh 2017), by maximum likelihood.
- `dense`: the checkpoint's own mapping network made invertible. Its dense layers are square and its leaky ReLU is a bijection,
  so all that keeps it from being one is the normalisation of z, which in high dimension changes next to nothing, and the tiny
  singular values of its weights. It starts with those values raised and is then trained, so it makes nearly the same y of a z.
- `additive`: LIA's own (NICE) couplings, of determinant 1.
- `affine`: the same with a bounded scale (RealNVP). As `flow`, both work for any mapping, also one that is a black box.

and a fifth, `sigmoid`, for the files of LIA's code that have it.
"""

from lia_adapter.mapping.cores import LARGE, AdditiveCouplings, AffineCouplings, DenseCore, ShuffledCouplings, SigmoidCouplings
from lia_adapter.mapping.invertible import InvertibleMapping
from lia_adapter.mapping.steps import Step

__all__ = [
    "LARGE",
    "AdditiveCouplings",
    "AffineCouplings",
    "DenseCore",
    "InvertibleMapping",
    "ShuffledCouplings",
    "SigmoidCouplings",
    "Step",
]
