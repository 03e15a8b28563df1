import pytest

from xvol.cli import main


def test_sites_with_a_column_for_a_branch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resnet18", "--policy", "stage3.last", "--input-size", "64", "--branches", "pssa,conv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "resnet18 at 3x64x64: 11.7M params, 149M MACs; 2 of 16 sites (stage3.1)"
    head, *rows = (line.split() for line in lines[2:5])
    assert head == [
        "site",
        "stage",
        "block",
        "conv",
        "stride",
        "groups",
        "channels",
        "in",
        "out",
        "params",
        "MACs",
        "+pssa",
        "+conv",
    ]
    # 256 channels on 4x4 pixels: 2 C^2 + 8 C + C^2 and a norm's 2 C; 3 C^2 + 9 C for each pixel, as PAPER.md has them
    assert rows[1] == [
        "layer3.1.conv2",
        "3",
        "1",
        "3x3",
        "1",
        "1",
        "256->256",
        "4x4",
        "4x4",
        "590k",
        "9.44M",
        "199k/3.18M",
        "0/0",
    ]
    totals = {line.split()[0]: line.split()[1:] for line in lines[-2:]}
    assert totals["pssa"][0] == "+398k"
    assert totals["conv"] == ["+0", "+0.0%", "+0", "+0.0%"]


@pytest.mark.slow
def test_all_branches_and_what_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convnext_atto", "--input-size", "3", "64", "64"]) == 0
    out = capsys.readouterr().out
    assert "3 x its kernel 2x2 is even" in out
    assert "softmax_global" in out
    assert main(["convnext_atto", "--input-size", "64", "64", "--policy", "none", "--refused"]) == 0
    assert "stages.1.downsample.1  its kernel 2x2 is even" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet5"], "timm has no model 'resnet5': did you mean 'resnet50'"),
        (["resnet18", "--input-size", "64", "--policy", "stage9"], "stage9 has no sites"),
        (["resnet18", "--input-size", "64", "--branches", "psa"], "no branch is named 'psa'"),
        (["resnet18", "--input-size", "1", "2", "3", "4"], "give one edge"),
        (["resnet18", "--input-size", "1", "64", "64"], "does not go through ResNet"),
        (["test_vit", "--input-size", "160"], "VisionTransformer has no site"),
    ],
)
def test_faults_are_one_message(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    caught = capsys.readouterr()
    assert caught.out == ""
    assert caught.err.startswith("xvol-sites: ")
    assert message in caught.err
