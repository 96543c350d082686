import dataclasses
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.config import ProcessConfig
from ssd_jax.data.statistics import measure_statistics
from ssd_jax.network.parameterisation import DataStatistics
from ssd_jax.process.config import make_process

CONFIG = ProcessConfig(image_size=8, num_levels=3, num_timesteps=40, operator="bicubic")


@pytest.mark.parametrize("blur", [0.0, 2.0])
def test_statistics_are_the_variances_of_clean_images(blur):
    process = make_process(replace(CONFIG, blur=blur))
    images = 0.7 + 0.2 * jax.random.normal(jax.random.key(0), (20, 8, 8, 3))
    statistics = measure_statistics(images, process)
    for t in range(0, 40, 3):
        shape = (20, *process.level_shape(int(process.levels[t])), 3)
        clean = process.noisy_state(images, t, jnp.zeros(shape)) / process.alpha[t]
        np.testing.assert_allclose(statistics.variances[t], np.var(np.asarray(clean, np.float64)), rtol=1e-3)
    read = json.loads(json.dumps(dataclasses.asdict(statistics)))
    assert DataStatistics(tuple(read["variances"])) == statistics
