"""The model of costs beside what was published of Horovod."""

import pytest

from app.advice.published import CASES, predict, table


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}-{case.gpus}")
def test_what_was_published_lies_between_no_overlap_and_all_of_it(case) -> None:
    found = predict(case)
    assert found.without <= case.published <= found.overlapped


def test_vgg_scales_worst_as_it_did() -> None:
    found = {(case.name, case.gpus): predict(case) for case in CASES}
    vgg = found["VGG-16", 512]
    for name in ("Inception V3", "ResNet-101"):
        assert vgg.without < found[name, 512].without
        assert vgg.overlapped < found[name, 512].overlapped
    assert len(table()) == len(CASES) + 1
