import pytest

from launch.common import backends


@pytest.mark.parametrize(
    "installed, present, expected",
    [
        ((), (), None),
        (("tpu",), (), "cpu"),  # libtpu, for forecasts, on a laptop
        (("tpu", "cuda"), ("cuda",), "cuda,cpu"),
        (("tpu", "cuda"), ("tpu", "cuda"), None),
        (("cuda",), ("tpu", "cuda"), None),
        (("tpu", "xla_rocm7"), (), None),  # of whose hardware nothing is known here
    ],
)
def test_backends_without_hardware_are_left_out(installed, present, expected):
    assert backends.platforms(installed, present) == expected
