"""What figures show."""

import numpy as np

from app.evaluation.figures import MOST_COLUMNS, rank_time_figure


def shown(seconds: np.ndarray, steps: list[int]) -> np.ma.MaskedArray:
    """The milliseconds of the heat map."""
    (image,) = rank_time_figure(seconds, steps).axes[0].get_images()
    return np.ma.asarray(image.get_array())


def test_ranks_that_are_not_there_leave_a_gap() -> None:
    nan = np.nan
    seconds = np.array([[0.1, 0.2, 0.3], [nan, 0.4, nan]])
    found = shown(seconds, [10, 20, 30])
    np.testing.assert_allclose(found.filled(-1), [[100, 200, 300], [-1, 400, -1]], rtol=1e-6)


def test_columns_of_many_reports_are_means_of_those_that_there_were() -> None:
    reports = 2 * MOST_COLUMNS
    seconds = np.full((2, reports), 0.1)
    seconds[1, : reports // 2] = np.nan
    seconds[1, reports // 2 - 1] = 0.3  # one of the two reports of its column
    found = shown(seconds, list(range(reports)))
    assert found.shape == (2, MOST_COLUMNS)
    np.testing.assert_allclose(found[0], 100, rtol=1e-6)
    middle = MOST_COLUMNS // 2
    np.testing.assert_array_equal(
        np.ma.getmaskarray(found)[1], np.arange(MOST_COLUMNS) < middle - 1
    )
    np.testing.assert_allclose(found[1, middle - 1 : middle + 1], [300, 100], rtol=1e-6)
