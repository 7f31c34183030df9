"""First weights by rule: Glorot's for the Keras examples, He's for deep networks of ReLU and batch norm."""

from __future__ import annotations

from torch import nn


def draw_glorot(module: nn.Module) -> None:
    """Give every convolution and linear layer Glorot's uniform weights and zero biases, as Keras does.

    w ~ U(-a, a), a = sqrt(6 / (fan_in + fan_out)). Draws from torch's global generator, layer by layer in the
    order of `modules()`.

    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks
    (2010), Eq. 16.

    Args:
        module: any module; its other layers stay as they are.

    >>> layer = nn.Linear(3, 3)
    >>> draw_glorot(layer)
    >>> bool(layer.weight.abs().max() <= 1), layer.bias.tolist()
    (True, [0.0, 0.0, 0.0])
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def draw_he(module: nn.Module) -> None:
    """Give every convolution He's normal weights (fan out) and zero bias; set norms to 1 and 0.

    w ~ N(0, 2 / n), n = k^2 d / groups for d output channels and a kernel of side k. Linear layers, in these
    networks the classifier alone, keep the uniform U(-1/sqrt(D), 1/sqrt(D)) that `nn.Linear` draws. Draws
    from torch's global generator, layer by layer.

    Source: He, Zhang, Ren, Sun, Delving deep into rectifiers (2015), section 2.2, the backward form.

    Args:
        module: any module; its other layers stay as they are.

    >>> layer = nn.Conv2d(3, 8, 3, bias=False)
    >>> draw_he(layer)
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.weight[0, 0].numel() * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, std=(2 / fan_out) ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def keep_drawn(module: nn.Module) -> None:
    """Leave the weights as the network's own constructor drew them (timm's models)."""


__all__ = ["draw_glorot", "draw_he", "keep_drawn"]
