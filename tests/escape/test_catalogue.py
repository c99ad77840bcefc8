"""Every case of the hostile catalogue, really tried: in each profile and mode where it applies."""

import re
from pathlib import Path

import pytest
from escape import catalogue, site

TESTS = Path(__file__).parent.parent
TRIED = [
    pytest.param(case, profile, mode, id=f"{case.name}-{profile}-{mode}")
    for case in catalogue.CASES
    if not case.see
    for profile in case.profiles
    for mode in case.modes
    if case.applies(profile, mode)
]


@pytest.mark.parametrize(("case", "profile", "mode"), TRIED)
def test_it_comes_to_what_the_catalogue_says(case, profile, mode, sites, record_property):
    record_property("escape", (f"{case.number}. {case.tried}", f"{profile}, {mode}"))
    here = sites.get(mode)
    for layer in case.needs:
        if layer in here.missing:
            pytest.skip(f"{layer}: {here.missing[layer]}")
    site.need_landlock(case)
    wanted = here.policy_of(profile, **case.policy)
    found = here.whole(wanted, case) if case.whole else here.outcomes(profile)[case.name]
    if found == "not here":
        pytest.skip("another processor than x86-64")
    assert found in case.right(profile, mode)


@pytest.mark.parametrize("case", [case for case in catalogue.CASES if case.see], ids=lambda case: case.number)
def test_what_other_tests_try_is_there(case, record_property):
    record_property("escape", (f"{case.number}. {case.tried}", case.see))
    path, _, name = case.see.partition("::")
    assert re.search(rf"^def {name}\(", (TESTS / path).read_text(), re.MULTILINE)


def test_every_number_of_the_catalogue_is_tried():
    """Here or by another test; none is left out because it cannot run here."""
    numbers = [int(number) for case in catalogue.CASES for number in re.findall(r"\d+", case.number)]
    assert set(numbers) == set(range(1, 106))


def test_every_attempt_of_the_hostile_program_is_in_the_catalogue_once():
    source = Path(__file__).with_name("hostile.py").read_text()
    helpers = {"call", "checked", "read", "may_open", "mess", "attempt", "main"}
    attempts = set(re.findall(r"^def ([a-z]\w+)\(", source, re.MULTILINE)) - helpers
    names = [case.name for case in catalogue.CASES if case.whole or site.is_single(case)]
    assert attempts == set(names)
    assert len(names) == len(set(names))
