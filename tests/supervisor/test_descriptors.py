import pytest

from lnmt_scheduler.supervisor import descriptors


@pytest.mark.parametrize(
    ("limit", "runs", "expected"),
    [
        (524_288, 20, (20, 256)),
        (1024, 20, (20, 256)),
        (1024, 1000, (97, 14)),
        (256, 20, (20, 16)),
        (128, 20, (8, 8)),
        (64, 20, (1, 14)),
        (10, 20, (1, 8)),
    ],
)
def test_runs_come_before_clients_and_some_of_both_are_always_let_in(limit, runs, expected):
    given = descriptors.share(limit, runs, 256)
    assert (given.runs, given.clients) == expected
