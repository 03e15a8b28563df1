"""An X-volution block where a network of your own has a 3x3 convolution and its norm: the paper's training form.

Run it: python examples/drop_in_layer.py     (a few seconds on a CPU)
"""

import torch
from torch import nn
from torch.nn import functional

import xvol


class Net(nn.Module):
    """Two convolutions and a classifier; the second convolution attends to its neighbours as well."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        # instead of nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False) and nn.BatchNorm2d(32):
        spec = xvol.BlockSpec.make(["conv", "pssa"], {"pssa": {"embed_ratio": 0.25}}, gamma=1.0)
        self.block = xvol.XVolution2d(16, 32, kernel_size=3, stride=2, spec=spec)
        self.head = nn.Linear(32, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) -> (B, 2)."""
        return self.head(functional.relu(self.block(self.stem(x))).mean((2, 3)))


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Stripes, horizontal or vertical, at random phases under noise."""
    labels = torch.randint(2, (size,))
    phase = torch.rand(size, 1, 1) * 6.3
    rows = torch.sin(torch.arange(16.0) + phase).transpose(1, 2).expand(-1, 16, 16)
    images = torch.where(labels[:, None, None].bool(), rows, rows.transpose(1, 2))
    return images[:, None] + 0.5 * torch.randn(size, 1, 16, 16), labels


def main() -> None:
    """Train for 30 steps, and fuse."""
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(30):
        images, labels = batch(64)
        loss = functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels = batch(500)
    with torch.no_grad():
        print(f"accuracy after 30 steps: {(net.eval()(images).argmax(1) == labels).float().mean():.1%}")
    print(xvol.fuse_report(net, images))
    print(xvol.fuse(net).block)


if __name__ == "__main__":
    main()
