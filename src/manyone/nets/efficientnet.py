"""EfficientNet-Lite0 (Tan & Le, 2019; the "lite" variant: ReLU6, no squeeze-excite), used as a distillation teacher.

Parameter names are those of the converted TensorFlow checkpoint: ``_conv_stem``, ``_bn0``, ``_blocks.N.{_expand_conv,
_bn0, _depthwise_conv, _bn1, _project_conv, _bn2}``, ``_conv_head``, ``_bn1``, ``_fc``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# repeats, kernel, stride, expansion, output channels
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
FEATURES = 1280


class SameConv2d(nn.Conv2d):
    """Convolution without bias and with TensorFlow's "SAME" padding: the odd pixel goes to the right and the bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, C, H, W] -> [n, C', ceil(H / stride), ceil(W / stride)]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        high, wide = (max((-(-s // stride) - 1) * stride + kernel - s, 0) for s in x.shape[-2:])
        if high == wide and high % 2 == 0:
            return F.conv2d(x, self.weight, None, stride, high // 2, 1, self.groups)
        x = F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
        return F.conv2d(x, self.weight, None, stride, 0, 1, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise kxk, project 1x1, with a residual where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expands, self.residual = expansion != 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv, self._bn0 = SameConv2d(inputs, hidden, 1), _norm(hidden)
        self._depthwise_conv, self._bn1 = SameConv2d(hidden, hidden, kernel, stride, groups=hidden), _norm(hidden)
        self._project_conv, self._bn2 = SameConv2d(hidden, outputs, 1), _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, H, W] -> [n, outputs, H', W']."""
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """ImageNet classifier; input uint8 images or float images in [0, 1], [n, 3, H, W], any H and W >= 32."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv2d(3, 32, 3, 2), _norm(32)
        blocks, inputs = [], 32
        for repeats, kernel, stride, expansion, outputs in _STAGES:
            for r in range(repeats):
                blocks.append(InvertedResidual(inputs, outputs, kernel, stride if r == 0 else 1, expansion))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv2d(inputs, FEATURES, 1), _norm(FEATURES)
        self._fc = nn.Linear(FEATURES, classes)

    def features(self, images: Tensor) -> Tensor:
        """Mean-pooled features [n, 1280]."""
        x = images.to(self._fc.weight.dtype)
        x = (x if images.dtype == torch.uint8 else x * 255) - 127
        return self.maps(x / 128)[-1].mean((2, 3))

    def maps(self, normalised: Tensor, blocks: Sequence[int] = ()) -> list[Tensor]:
        """Maps after ``blocks`` (0 to 15), then the last one, [n, 1280, H / 32, W / 32], of (values - 127) / 128."""
        x = F.relu6(self._bn0(self._conv_stem(normalised)))
        found = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in blocks:
                found.append(x)
        return [*found, F.relu6(self._bn1(self._conv_head(x)))]

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, classes]."""
        return self._fc(self.features(images))
