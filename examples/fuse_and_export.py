"""From a trained model to a file to deploy: fuse, check, export to torch.export and ONNX, run in ONNX Runtime.

Run it: python examples/fuse_and_export.py [FOLDER]     ONNX needs: pip install 'xvol[onnx]'
"""

import sys
import tempfile
import warnings
from pathlib import Path

import torch

import xvol  # before timm: it mends a CPU torch beside torchvision's CUDA wheel

import timm  # isort: skip


def main(folder: Path) -> None:
    """Write the fused model to `folder` in each format, and compare what comes out."""
    torch.manual_seed(0)
    model = timm.create_model("xvol_proxy_resnet")  # stands for your own trained model
    spec = xvol.BlockSpec.make(["conv", "pssa"], gamma=1.0)
    model = xvol.convert(model, {site.fqn: spec for site in xvol.sites(model, (3, 32, 32))}, (3, 32, 32)).eval()

    print(xvol.fuse_report(model, (3, 32, 32), plain=True))
    fused = xvol.fuse(model, (3, 32, 32))  # without a size, convolutions outside of blocks keep their norms
    images = torch.randn(2, 3, 40, 32)
    with torch.no_grad():
        expected = model(images)

    # 1. A state dict. It fits the fused form only; the other form says so.
    torch.save(fused.state_dict(), folder / "fused.pth")
    xvol.load_state_dict(fused, torch.load(folder / "fused.pth", weights_only=True))
    try:
        xvol.load_state_dict(model, fused.state_dict())
    except RuntimeError as error:
        print(f"refused, as it should be: {error}")

    # 2. torch.export, for any number and size of images; torch.compile(fused, fullgraph=True) works too.
    free = torch.export.Dim.DYNAMIC
    shapes = ({0: free, 2: free, 3: free},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about torch
        program = torch.export.export(fused, (torch.randn(2, 3, 64, 64),), dynamic_shapes=shapes)
        torch.export.save(program, folder / "model.pt2")
        with torch.no_grad():
            error = (torch.export.load(folder / "model.pt2").module()(images) - expected).abs().max()
    print(f"model.pt2: logits differ by {error:.1e}")

    # 3. ONNX.
    try:
        import onnxruntime  # an extra, which need not be installed
        import onnxscript  # noqa: F401  # what torch writes it with
    except ImportError:
        print("model.onnx: not written, for onnxruntime or onnxscript is missing: pip install 'xvol[onnx]'")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx = torch.onnx.export(program, dynamo=True, verbose=False, input_names=["images"], output_names=["logits"])
    onnx.save(folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images.numpy()})
    print(f"model.onnx: logits differ by {abs(logits - expected.numpy()).max():.1e}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
