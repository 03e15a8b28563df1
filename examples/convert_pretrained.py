"""Put X-volution blocks into a timm model without changing what it computes, and fine-tune from there.

Run it: python examples/convert_pretrained.py                   random weights, so that no download is needed
        python examples/convert_pretrained.py --pretrained      timm's ImageNet weights, from the Hugging Face hub
"""

import argparse

import torch

import xvol  # before timm: it mends a CPU torch beside torchvision's CUDA wheel

import timm  # isort: skip


def main() -> None:
    """Convert stage 3 of a ResNet-18; take one step of fine-tuning."""
    options = argparse.ArgumentParser()
    options.add_argument("--pretrained", action="store_true", help="download timm's ImageNet weights")
    pretrained = options.parse_args().pretrained
    torch.manual_seed(0)
    model = timm.create_model("resnet18", pretrained=pretrained).eval()
    print(f"weights: {'ImageNet' if pretrained else 'random (nothing below depends on which)'}")

    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        before = model(images)
    chosen = xvol.select(xvol.sites(model), "stage3")  # the stage that the paper found best
    spec = xvol.BlockSpec.make(["conv", "pssa"], {"pssa": {"embed_ratio": 0.25}})
    model = xvol.convert(model, {site.fqn: spec for site in chosen})
    with torch.no_grad():
        same = torch.equal(model(images), before)
    print(f"blocks at {', '.join(site.fqn for site in chosen)}; the logits are bitwise the same: {same}")

    # The attention's norms start at gamma = 0: they learn at once, and open the branch for the rest of it.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    loss = torch.nn.functional.cross_entropy(model(torch.randn(4, 3, 96, 96)), torch.randint(1000, (4,)))
    loss.backward()
    optimizer.step()
    gamma = max(float(model.get_submodule(site.fqn).norms["pssa"].weight.detach().abs().max()) for site in chosen)
    print(f"after one step the largest gamma of the attention is {gamma:.1e}")
    print(xvol.fuse_report(model, images))


if __name__ == "__main__":
    main()
