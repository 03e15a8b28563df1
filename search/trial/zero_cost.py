"""Zero-cost scores: what a network promises before it is trained, by six formulas from the literature.

They are recorded beside the results and may start a sampler; nothing is chosen by them silently. Higher is taken to be
better in each paper. Two things to know before they start a search over placements: a block whose norm starts at
`branch.gamma=0` scores exactly as the plain network (zen alone rewrites gamma), and with gamma 1 they rank against the
trained accuracy or not with it, since synflow and zen reward a product of two branches for being of degree two.

Legend: N = images in the minibatch, L = loss, theta = a parameter, K = classes.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from search.objectives import ZERO_COST, check_scores
from search.recipe import TrainConfig
from search.tasks.base import Task

if TYPE_CHECKING:
    from timm.task import TrainingTask

SCORE_BATCH = 64  # images, as in Abdelfattah et al. 2021; fewer where the recipe's batch is smaller
Loss = Callable[[], Tensor]  # of the network on its batch
_RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.ELU, nn.Mish)
_BATCH_NORM = nn.modules.batchnorm._BatchNorm
_NORMS = (_BATCH_NORM, nn.GroupNorm, nn.LayerNorm)


def scores(
    model: nn.Module, task: Task, batch: tuple[Tensor, Tensor], names: Sequence[str], seed: int
) -> dict[str, float]:
    """Score an untrained network; `model`, its statistics and every random state are left as they were.

    Args:
        model: on the device of the batch.
        task: has the loss; it is taken plainly, whatever the recipe smooths.
        batch: images (N, C, H, W), normalised as in training, and targets.
        names: of `ZERO_COST`, in any order.
        seed: of whatever a score draws.

    Returns:
        A number for each name, in the order of `names`. Not finite where the formula gives no finite number.

    Raises:
        ValueError: an unknown name, or a score that is not defined for this network.
    """
    check_scores(names, "scores")
    found: dict[str, float] = {}
    for name in names:
        images = batch[0].clone()
        with _apart(images.device, seed):
            # each on a copy of its own: they rewrite weights, and training mode moves running statistics
            training = task.training(copy.deepcopy(model).train(), TrainConfig())
            loss = functools.partial(_loss, training, images, batch[1])
            found[name] = float(_FORMULAS[name](cast(nn.Module, training.get_trainable_module()), images, loss))
    return found


@contextmanager
def _apart(device: torch.device, seed: int) -> Iterator[None]:
    """Random numbers of their own, and gradients on, whatever the caller's."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(seed)
        yield


def _synflow(model: nn.Module, images: Tensor, loss: Loss) -> Tensor | float:
    """Sum of |theta * dR/dtheta| with R the sum of the logits of an image of ones under the weights' absolute values.

    Tanaka et al. 2020, "Pruning neural networks without any data by iteratively conserving synaptic flow",
    arXiv:2006.05467, equation 1 with its score for R_SF; summed as in Abdelfattah et al. 2021, arXiv:2101.08134. In eval
    mode, so that norms are the scaling they start as, and in float64, since the flow grows with each layer.
    """
    model = model.double().eval()
    parameters = _trained(model)
    with torch.no_grad():
        for parameter in parameters:
            parameter.abs_()
    flow = model(torch.ones_like(images[:1], dtype=torch.float64)).sum()
    return sum(_saliency(flow, parameters), torch.zeros((), dtype=torch.float64, device=images.device))


def _snip(model: nn.Module, images: Tensor, loss: Loss) -> Tensor | float:
    """Sum of |theta * dL/dtheta| over the weights, L the task's loss on one minibatch.

    Lee et al. 2019, "SNIP: single-shot network pruning based on connection sensitivity", arXiv:1810.02340, equation 5
    before its normalisation; summed as in Abdelfattah et al. 2021.
    """
    return sum(_saliency(loss(), _weights(model)), torch.zeros((), device=images.device))


def _grad_norm(model: nn.Module, images: Tensor, loss: Loss) -> Tensor | float:
    """Sum over the layers' weights of the Euclidean norm of dL/dtheta after one minibatch.

    Abdelfattah et al. 2021, "Zero-cost proxies for lightweight NAS", arXiv:2101.08134, section 3.1.
    """
    gradients = torch.autograd.grad(loss(), _weights(model), allow_unused=True)
    return sum((g.norm() for g in gradients if g is not None), torch.zeros((), device=images.device))


def _naswot(model: nn.Module, images: Tensor, loss: Loss) -> Tensor | float:
    """log |det K_H| with K_H[i, j] = rectified units that are on, or off, for both image i and image j.

    Mellor et al. 2021, "Neural architecture search without training", arXiv:2006.04647v3, equation 2. A unit of another
    activation (GELU, SiLU, ...) is on where its input is positive.
    """
    kernel_NN = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)
    seen: list[int] = []

    def compare(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        on_NU = (inputs[0].detach().reshape(len(images), -1) > 0).double()
        kernel_NN.add_(on_NU @ on_NU.T + (1 - on_NU) @ (1 - on_NU).T)
        seen.append(on_NU.shape[1])

    for module in model.modules():
        if isinstance(module, _RECTIFIERS):
            module.register_forward_pre_hook(compare)
    with torch.no_grad():
        model(images)
    if not seen:
        raise ValueError(
            f"zero-cost score naswot: {type(model).__name__} has no rectifying module "
            f"({', '.join(kind.__name__ for kind in _RECTIFIERS)}), so it has no binary codes; leave naswot out"
        )
    return torch.linalg.slogdet(kernel_NN).logabsdet


def _jacob_cov(model: nn.Module, images: Tensor, loss: Loss) -> Tensor | float:
    """-sum over i of [log(s_i + k) + 1 / (s_i + k)], s the eigenvalues of the correlation of the images' Jacobians.

    Mellor et al. 2020, "Neural architecture search without training", arXiv:2006.04647v1, section 3; k = 1e-5. An
    image's Jacobian is that of the sum of the logits.
    """
    images.requires_grad_()
    (jacobian,) = torch.autograd.grad(model(images).sum(), images)
    correlation_NN = torch.corrcoef(jacobian.reshape(len(images), -1).double()).reshape(len(images), len(images))
    if not bool(torch.isfinite(correlation_NN).all()):
        return math.nan  # an image that the logits do not depend on has no correlation
    shifted = torch.linalg.eigvalsh(correlation_NN).clamp_min(0) + 1e-5
    return -(shifted.log() + 1 / shifted).sum()


def _zen(model: nn.Module, images: Tensor, loss: Loss) -> Tensor | float:
    """log E ||f(x) - f(x + a e)|| + sum over batch norms of log sqrt(mean over channels of the batch's variance).

    Lin et al. 2021, "Zen-NAS: a zero-shot NAS for high-performance image recognition", arXiv:2102.01063, algorithm 1,
    with a = 0.01, x and e of unit-normal noise, weights of unit-normal noise, f the network before its pooling. Residual
    links are kept: timm's networks have no form without them.
    """
    _normal_weights(model)
    model = model.double()
    spread: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x_BCx = inputs[0].detach()
        variance_C = x_BCx.transpose(0, 1).reshape(x_BCx.shape[1], -1).var(dim=1, correction=0)
        spread.append(0.5 * variance_C.mean().log())

    draw = torch.Generator().manual_seed(torch.initial_seed())
    x, noise = (torch.randn(images.shape, generator=draw, dtype=torch.float64).to(images.device) for _ in range(2))
    features: Callable[[Tensor], Tensor] = getattr(model, "forward_features", model)
    with torch.no_grad():
        hooks = [m.register_forward_pre_hook(note) for m in model.modules() if isinstance(m, _BATCH_NORM)]
        plain = features(x)
        for hook in hooks:
            hook.remove()
        moved = features(x + 0.01 * noise)
    distance = (moved - plain).reshape(len(images), -1).norm(dim=1).mean()
    return distance.log() + sum(spread, torch.zeros_like(distance))


_FORMULAS: dict[str, Callable[[nn.Module, Tensor, Loss], Tensor | float]] = {
    "synflow": _synflow,
    "naswot": _naswot,
    "jacob_cov": _jacob_cov,
    "grad_norm": _grad_norm,
    "snip": _snip,
    "zen": _zen,
}
assert tuple(_FORMULAS) == ZERO_COST


def _loss(training: TrainingTask, images: Tensor, targets: Tensor) -> Tensor:
    loss: Tensor = training(images, targets)["loss"]
    return loss


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _weights(model: nn.Module) -> list[nn.Parameter]:
    """Weights of convolutions and matrix products; biases and norms are no layers of their own."""
    return [parameter for parameter in _trained(model) if parameter.ndim >= 2]


def _saliency(value: Tensor, parameters: Sequence[nn.Parameter]) -> Iterator[Any]:
    gradients = torch.autograd.grad(value, list(parameters), allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            yield (parameter.detach() * gradient).abs().sum()


def _normal_weights(model: nn.Module) -> None:
    """Zen's start: weights of unit-normal noise, biases 0, norms that scale by 1."""
    draw = torch.Generator().manual_seed(torch.initial_seed() + 1)
    norms = {id(p) for m in model.modules() if isinstance(m, _NORMS) for p in m.parameters(recurse=False)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.rpartition(".")[2] == "bias":
                parameter.zero_()
            elif id(parameter) in norms:
                parameter.fill_(1)
            elif parameter.ndim >= 2:
                parameter.copy_(torch.randn(parameter.shape, generator=draw))
