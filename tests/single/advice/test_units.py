"""Bandwidths and times as people write them."""

import pytest

from app.advice.units import bandwidth, duration, ms_text, positive, share, size_text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("25Gbit", 25e9 / 8),
        ("10 Gbit/s", 10e9 / 8),
        ("200mbit", 200e6 / 8),
        ("100Gbps", 100e9 / 8),
        ("1.5gb/s", 1.5e9 / 8),
        ("3.1GB/s", 3.1e9),
        ("512 MBytes/s", 512e6),
        ("8bit", 1.0),
    ],
)
def test_a_bandwidth_is_read_in_bytes_per_second(given: str, expected: float) -> None:
    assert bandwidth(given) == pytest.approx(expected)


@pytest.mark.parametrize("given", ["25", "fast", "25Gbyt", "-1Gbit", "0Gbit", "25 G", ""])
def test_what_is_no_bandwidth_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="expected a bandwidth such as 25Gbit"):
        bandwidth(given)


@pytest.mark.parametrize(
    ("given", "expected"), [("20us", 20e-6), ("0.5 ms", 5e-4), ("1s", 1.0), ("3µs", 3e-6)]
)
def test_a_time_is_read_in_seconds(given: str, expected: float) -> None:
    assert duration(given) == pytest.approx(expected)


@pytest.mark.parametrize("given", ["20", "5 minutes", "us", "-1ms"])
def test_what_is_no_time_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="expected a time such as 20us"):
        duration(given)


@pytest.mark.parametrize(("read", "given"), [(positive, "0"), (positive, "inf"), (share, "1.1")])
def test_numbers_have_limits(read, given: str) -> None:
    with pytest.raises(ValueError, match="expected a number"):
        read(given)


def test_sizes_and_times_are_short() -> None:
    assert [size_text(n) for n in (12, 4096, 25e6, 3.1e9)] == ["12 B", "4.1 KB", "25 MB", "3.1 GB"]
    assert [ms_text(s) for s in (0.00123, 0.0123, 0.123, 1.23)] == ["1.23", "12.3", "123", "1,230"]
