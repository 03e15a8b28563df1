from hypothesis import given
from hypothesis import strategies as st

from xvol.suggest import meant, suggest


def test_what_was_meant() -> None:
    assert meant("pssaa", ["conv", "pssa"]) == "; did you mean pssa?"
    assert meant("zzz", ["conv", "pssa"]) == ""
    assert meant("CONV", ["conv", "pssa"]) == "; did you mean conv?"
    assert meant(3, ["conv"]) == ""


def test_near_matches_come_first() -> None:
    assert suggest("psa", ["conv", "pssa"]) == "did you mean 'pssa'? Allowed: conv, pssa"
    assert suggest("zzz", ["conv"]) == "Allowed: conv"
    assert suggest("zzz", []) == "there are none to choose from"


@given(st.text(max_size=8), st.lists(st.text("abcdef", min_size=1, max_size=5), min_size=1, max_size=30))
def test_a_list_is_never_longer_than_asked_for(given_name: str, names: list[str]) -> None:
    text = suggest(given_name, names, shown=5).rsplit("Allowed: ")[-1]
    assert text.count(", ") <= 5
    assert (f"and {len(names) - 5} more" in text) == (len(names) > 5)
