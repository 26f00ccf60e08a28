"""Gradient-norm attack: what was trained on pulls less at the weights (open-unlearning's GradNorm).

    score = - mean over parameter tensors of ‖ ∂ mean NLL / ∂ tensor ‖₂

Higher = more likely a member. The norms themselves come from `models.gradients`.
"""

VERSION = 1


def gradient_norm_score(norm: float) -> float:
    return -norm
