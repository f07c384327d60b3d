"""Which hosts are left alone, by their name."""

import pytest

from spyder.model.outcomes import Status
from spyder.policy.scope import Scope


@pytest.mark.parametrize(
    ("host", "excluded"),
    [
        ("gov", True),
        ("x.gov", True),
        ("a.b.x.gov", True),
        ("gov.example.com", False),
        ("xgov", False),
        ("x.govx", False),
        ("site.gov.uk", True),
        ("sitegov.uk", False),
        ("uk", False),
        ("example.com", False),
        ("mil.gov.example", False),
        ("base.mil", True),
    ],
)
def test_suffixes_are_matched_label_by_label(host: str, excluded: bool) -> None:
    """`gov` covers itself and what is below it, and nothing that only ends in its letters."""
    verdict = Scope(["gov", "gov.uk", "mil"]).verdict(host)
    assert verdict is (Status.EXCLUDED_TLD if excluded else Status.OK)


@pytest.mark.parametrize("written", [".gov", "GOV", " gov ", "gov."])
def test_the_settings_may_write_a_suffix_in_several_ways(written: str) -> None:
    """Dots, blanks and case around it do not matter."""
    assert Scope([written]).verdict("x.gov") is Status.EXCLUDED_TLD


@pytest.mark.parametrize("nothing", [[], [""], ["."], [" "]])
def test_an_empty_list_excludes_nothing(nothing: list[str]) -> None:
    """An empty suffix would be a suffix of every name: it is none."""
    assert Scope(nothing).verdict("x.gov") is Status.OK
