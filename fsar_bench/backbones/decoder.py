"""A decoder that rebuilds images from the feature maps of a backbone."""

from __future__ import annotations

from torch import nn


def three_factors(number: int) -> tuple[int, int, int]:
    """Return the three whole numbers, ascending and as close together as possible, whose product is `number`."""
    triples = [
        (a, b, number // (a * b))
        for a in range(1, number + 1)
        for b in range(a, number + 1)
        if number % (a * b) == 0 and number // (a * b) >= b
    ]
    return min(triples, key=lambda triple: triple[2] - triple[0])


def map_decoder(width: int, stride: int) -> nn.Sequential:
    """Build three steps of upsampling and convolution that lead from maps back to images (MoLo, CVPR 2023).

    Args:
        width: channels of the maps `[B, width, h, w]`.
        stride: pixels per step of the maps; the factors of the three steps multiply to it.

    Returns:
        A network from maps to RGB `[B, 3, stride * h, stride * w]`.
    """
    layers: list[nn.Module] = []
    for factor, out in zip(three_factors(stride), (128, 32, 16), strict=True):
        layers += [
            nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=True),
            nn.Conv2d(width, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        ]
        width = out
    return nn.Sequential(*layers, nn.Conv2d(width, 3, 1))
