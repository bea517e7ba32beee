"""Whether a transform of `torch.func` is active, for which PyTorch has no public function (read in PyTorch 2.13.0)."""


def transforms_are_active() -> bool:
    """Whether the code runs within a transform such as `torch.func.vmap` or `torch.func.grad`.

    `torch.autograd.Function.apply` asks the same function (`torch/autograd/function.py`).
    """
    import torch

    return torch._C._are_functorch_transforms_active()
