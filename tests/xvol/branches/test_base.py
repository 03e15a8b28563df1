import pytest

from xvol.branches.base import Branch, Geometry


@pytest.mark.parametrize(("kernel", "dilation", "padding"), [(1, 1, 0), (3, 1, 1), (3, 2, 2), (5, 1, 2), (7, 3, 9)])
def test_same_padding(kernel: int, dilation: int, padding: int) -> None:
    geometry = Geometry(in_chs=4, out_chs=4, kernel_size=kernel, dilation=dilation)
    assert geometry.same_padding == padding
    geometry.check()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kernel_size": 2}, "kernel_size=2 is even"),
        ({"stride": 0}, "stride=0 must be a whole number of at least 1"),
        ({"in_chs": 1.5}, "in_chs=1.5 must be a whole number"),
        ({"groups": 3}, "groups=3 must divide in_chs=4 and out_chs=8"),
        ({"padding": 0}, "padding=0 does not centre the window: kernel_size=3 with dilation=1 needs padding=1"),
        ({"padding_mode": "reflect"}, "padding_mode='reflect'"),
    ],
)
def test_what_no_branch_can_stand_in_for(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Geometry(**({"in_chs": 4, "out_chs": 8} | wrong)).check()


def test_a_branch_must_say_how_it_folds() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Branch(4, 4)  # type: ignore[abstract]
