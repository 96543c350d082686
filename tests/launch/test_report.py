import numpy as np
import pytest

from launch.common.report import markdown, number, plain

ROWS = [
    {"stage": "stay0", "s": 0.12345, "error": 1.234e-7},
    {"stage": "all", "s": None, "error": np.float32(1234.5), "solver": "ddim"},
]


def test_tables_are_aligned():
    assert markdown(ROWS, digits=3) == (
        "| stage   |     s |    error | solver   |\n"
        "|:--------|------:|---------:|:---------|\n"
        "| stay0   | 0.123 | 1.23e-07 | -        |\n"
        "| all     |     - |     1234 | ddim     |"
    )
    assert plain(ROWS).splitlines() == [
        "stage       s      error  solver",
        "stay0  0.1235  1.234e-07  -",
        "all         -       1234  ddim",
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (-0.5, "-0.5"),
        (0.001, "0.001"),
        (-0.00012345, "-1.23e-04"),
        (9.996, "10"),
        (99.96, "100"),
        (999.6, "1000"),
        (12345.6, "12346"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_numbers_have_some_significant_digits(value, shown):
    assert number(value, digits=3) == shown


def test_text_that_looks_like_a_number_stays_as_it_is():
    assert plain([{"commit": "1e5", "levels": 2}]).split() == ["commit", "levels", "1e5", "2"]
