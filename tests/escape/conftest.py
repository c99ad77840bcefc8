"""The sites of this run, made when first asked for."""

import contextlib
from collections.abc import Iterator

import pytest
from escape import site


class Sites:
    """Mode -> its site, or why there is none."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._stack = contextlib.ExitStack()
        self._made: dict[str, site.Site | LookupError] = {}

    def get(self, mode: str) -> site.Site:
        if mode not in self._made:
            try:
                user = self._request.getfixturevalue("ordinary_user") if mode != "a" else None
                self._made[mode] = self._stack.enter_context(site.open_site(mode, user))
            except LookupError as error:
                self._made[mode] = error
        found = self._made[mode]
        if isinstance(found, LookupError):
            pytest.skip(str(found))
        return found

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="session")
def sites(request: pytest.FixtureRequest) -> Iterator[Sites]:
    made = Sites(request)
    yield made
    made.close()
