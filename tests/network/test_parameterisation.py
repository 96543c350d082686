"""What a network's output means, on Gaussian data: every map is linear and every expectation a matrix, in float64."""

from dataclasses import replace
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ssd_jax.config import FlexiUNetConfig, ProcessConfig
from ssd_jax.data.statistics import measure_statistics
from ssd_jax.errors import InputError
from ssd_jax.network import make_network
from ssd_jax.network.denoiser import Denoiser
from ssd_jax.network.parameterisation import (
    PARAMETERISATIONS,
    DataStatistics,
    DenoiserConfig,
    Parameterisation,
    make_parameterisation,
)
from ssd_jax.process.config import make_process
from ssd_jax.process.matrix_free import MatrixFreeOperator
from ssd_jax.process.operators import SeparableOperator
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.stages import Stage
from ssd_jax.sampling import parts
from ssd_jax.sampling.plan import plan_steps
from ssd_jax.sampling.sampler import sample
from ssd_jax.training.loss import LOSS_WEIGHTINGS, stage_loss
from tests.gaussians import GaussianData, natural_covariance

COVARIANCE = natural_covariance(4)
CONFIG = ProcessConfig(image_size=4, num_levels=2, num_timesteps=50, resolution_schedule="equal")


def oblique(x):
    """An operator of different singular values that is no product of one matrix per axis."""
    return (x[::2, ::2] + x[1::2, 1::2] + 0.5 * jnp.roll(x, 1, 1)[::2, ::2] * jnp.array([[1.0, 0.3], [0.2, -0.5]])) / 2.5


def matrix_free() -> ScaleSpaceProcess:
    operator, levels = MatrixFreeOperator(oblique, (4, 4)), np.repeat([0, 1], 10)
    log_snr = np.linspace(3, -2, 20) - 1.01 * np.log(operator.lambda_max) * levels
    return ScaleSpaceProcess((4, 4), log_snr, levels, (operator,))


PROCESSES = {
    "box": make_process(CONFIG),
    "bilinear": make_process(replace(CONFIG, operator="bilinear")),
    "blur": make_process(replace(CONFIG, operator="bilinear", blur=0.4)),
    "functions": matrix_free(),
}


KINDS = list(PARAMETERISATIONS)
CASES = [(name, stage) for name, process in PROCESSES.items() for stage in process.stages]
each_case = pytest.mark.parametrize(  # the bilinear operator has what the box has, and singular values that differ
    ("name", "stage"),
    [
        pytest.param(name, stage, id=f"{name}-{stage}", marks=[pytest.mark.nightly] * (name == "box"))
        for name, stage in CASES
    ],
)
each_kind = pytest.mark.parametrize("kind", KINDS)


def parameterisation(kind: str, process: ScaleSpaceProcess, conditioning: str = "timestep") -> Parameterisation:
    statistics = DataStatistics(tuple(np.full(process.num_timesteps, 0.25)))
    return make_parameterisation(DenoiserConfig(kind, conditioning), process, statistics)


def matrix(linear, shape: tuple[int, ...], dtype) -> np.ndarray:
    """The matrix of a linear function of images of spatial `shape`, which sees a basis as one batch."""
    size = int(np.prod(shape))
    columns = linear(jnp.asarray(np.eye(size).reshape(size, *shape, 1), dtype))
    return np.asarray(columns, np.float64).reshape(size, -1).T


class Case:
    """A process, a stage narrowed to a single t, and all that is linear there, as matrices.

    `clean` is G of x = G z + sigma eps, `cov` the covariance of z, and E[z | x] = `mean` x.
    """

    def __init__(self, process: ScaleSpaceProcess, stage: Stage, dtype: Any, tolerance: float):
        self.process, self.stage, self.dtype, self.tolerance = process, stage, dtype, tolerance
        self.t, self.sigma = stage.t_min, process.sigma[stage.t_min]
        self.out_shape, self.in_shape = (process.level_shape(level) for level in (stage.out_level, stage.in_level))

        def noiseless(z):
            noise = jnp.zeros((len(z), *self.in_shape, 1), z.dtype)
            return process.noisy_state(z, self.t, noise, start=stage.out_level)

        sharp = matrix(lambda x: process.degrade(x, stage.out_level), process.shape, dtype)
        self.clean = matrix(noiseless, self.out_shape, dtype)
        self.cov = sharp @ COVARIANCE @ sharp.T
        state = self.clean @ self.cov @ self.clean.T + self.sigma**2 * np.eye(len(self.clean))
        self.mean = self.cov @ self.clean.T @ np.linalg.inv(state)

    def regression(self, chosen: Parameterisation) -> np.ndarray:
        """W of the best F = W x, the least-squares regression of the coded targets on the states."""
        of_z, of_x = self.maps(chosen.target)
        return of_z @ self.mean + of_x  # Cov(F*, x) Cov(x)^-1, F* = of_z z + of_x x

    def maps(self, function) -> tuple[np.ndarray, np.ndarray]:
        """`target` or `z_hat` as matrices: of its first argument and of x."""

        def of_first(first):
            x = jnp.zeros((len(first), *self.in_shape, 1), first.dtype)
            return function(first, x, jnp.full(len(first), self.t), stage=self.stage)

        def of_x(x):
            first = jnp.zeros((len(x), *self.out_shape, 1), x.dtype)
            return function(first, x, jnp.full(len(x), self.t), stage=self.stage)

        return matrix(of_first, self.out_shape, self.dtype), matrix(of_x, self.in_shape, self.dtype)

    def network(self, w, chosen: Parameterisation):
        """The network F = W x, which is told c_in x, as a denoiser."""
        c_in = 1.0 if chosen.c_in is None else chosen.c_in[self.t]

        def denoise(x, t, label=None, *, stage, dropout_keys=None):
            told, _ = chosen.inputs(x, t)
            output = (told.reshape(len(x), -1) / c_in) @ w.T
            return chosen.z_hat(output.reshape(len(x), *self.out_shape, 1), x, t, stage=stage)

        return denoise


@pytest.fixture
def case(name, stage):
    """In float64, but for operators that are functions, which are made for float32."""
    process = PROCESSES[name]
    t = (stage.t_min + stage.t_max) // 2
    with jax.enable_x64(name != "functions"):
        dtype, tolerance = (np.float32, 3e-5) if name == "functions" else (np.float64, 1e-9)
        yield Case(process, replace(stage, t_min=t, t_max=t), dtype, tolerance)


@each_case
@each_kind
def test_the_best_fit_of_the_targets_gives_the_posterior_mean(case, kind):
    chosen = parameterisation(kind, case.process)
    of_f, of_x = case.maps(chosen.z_hat)
    np.testing.assert_allclose(of_f @ case.regression(chosen) + of_x, case.mean, atol=case.tolerance)
    if not any(isinstance(operator, MatrixFreeOperator) for operator in case.process.operators):
        np.testing.assert_allclose(case.mean, GaussianData(case.process, COVARIANCE).matrices[case.t], atol=1e-9)


@each_case
@each_kind
def test_the_expected_loss_is_least_there(case, kind, monkeypatch):
    """The loss is quadratic in (x_0, eps): its mean over the columns of a root of their covariance is its expectation."""
    chosen = parameterisation(kind, case.process)
    values, vectors = np.linalg.eigh(COVARIANCE)
    pixels, states = len(COVARIANCE), len(case.clean)
    count = pixels + states
    images = np.concatenate([(vectors * np.sqrt(values)).T, np.zeros((states, pixels))]) * np.sqrt(count)
    noise = np.concatenate([np.zeros((pixels, states)), np.eye(states)]) * np.sqrt(count)
    images = jnp.asarray(images.reshape(count, 4, 4, 1), case.dtype)
    noise = jnp.asarray(noise.reshape(count, *case.in_shape, 1), case.dtype)
    keys = jax.random.split(jax.random.key(0), count)
    drawn = jax.random.key_data(jax.vmap(lambda key: jax.random.split(key, 4)[1])(keys))

    def normal(key, *_):
        return noise[jnp.argmax((jax.random.key_data(key) == drawn).all(axis=1))]

    monkeypatch.setattr(jax.random, "normal", normal)

    def loss(w):
        denoise = case.network(w, chosen)
        return stage_loss(denoise, case.process, case.stage, images, None, keys, "constant")

    best = jnp.asarray(case.regression(chosen), case.dtype)
    value, gradient = jax.value_and_grad(loss)(best)
    unknown = np.trace(case.cov - case.mean @ case.clean @ case.cov) / len(
        case.cov
    )  # the posterior's variance, for any kind
    np.testing.assert_allclose(value, unknown, rtol=10 * case.tolerance)
    scale = jnp.abs(jax.grad(loss)(best + 0.1)).max()
    assert scale > 1e-4 and jnp.abs(gradient).max() < 10 * case.tolerance * scale


@each_case
@each_kind
def test_the_z_hat_of_the_target_is_z(case, kind):
    chosen, rng = parameterisation(kind, case.process), np.random.default_rng(0)
    z, x = (jnp.asarray(rng.standard_normal((5, *shape, 3)), case.dtype) for shape in (case.out_shape, case.in_shape))
    t = jnp.full(5, case.t)
    target = chosen.target(z, x, t, stage=case.stage)
    np.testing.assert_allclose(chosen.z_hat(target, x, t, stage=case.stage), z, atol=10 * case.tolerance)


@each_case
def test_v_is_what_it_says(case):
    """With x = G z + sigma eps, F* = G^T (G G^T + sigma^2)^(-1/2) eps - sigma (G^T G + sigma^2)^(-1/2) z."""
    g, sigma, chosen = case.clean, case.sigma, parameterisation("v", case.process)

    def root(gram):
        values, vectors = np.linalg.eigh(gram)
        return vectors / np.sqrt(values.clip(0) + sigma**2) @ vectors.T

    of_z, of_x = case.maps(chosen.target)
    np.testing.assert_allclose(sigma * of_x, g.T @ root(g @ g.T), atol=10 * case.tolerance)  # x = sigma eps
    np.testing.assert_allclose(of_z + of_x @ g, -sigma * root(g.T @ g), atol=10 * case.tolerance)  # x = G z
    _, skip = case.maps(chosen.z_hat)
    np.testing.assert_allclose(skip, g.T @ np.linalg.inv(g @ g.T + sigma**2 * np.eye(len(g))), atol=10 * case.tolerance)


@pytest.mark.parametrize("name", PROCESSES)
def test_every_image_of_a_stay_has_its_own_t(name):
    process, rng = PROCESSES[name], np.random.default_rng(0)
    chosen = parameterisation("v", process)
    for stage in process.stages:
        z, x = (
            jnp.asarray(rng.standard_normal((4, *process.level_shape(level), 3)), jnp.float32)
            for level in (stage.out_level, stage.in_level)
        )
        t = jnp.linspace(stage.t_min, stage.t_max, 4).astype(int)
        whole = chosen.z_hat(z, x, t, stage=stage)
        for i in range(4):
            alone = chosen.z_hat(z[i : i + 1], x[i : i + 1], t[i : i + 1], stage=stage)
            np.testing.assert_allclose(alone[0], whole[i], atol=1e-5)


@pytest.mark.parametrize("name", PROCESSES)
def test_inputs_have_variance_1(name):
    """With statistics measured on samples whose covariance is exactly that of the data."""
    process = PROCESSES[name]
    values, vectors = np.linalg.eigh(COVARIANCE)
    root = (vectors * np.sqrt(values * 16)).T
    x0 = jnp.asarray(np.concatenate([root, -root]).reshape(32, 4, 4, 1), jnp.float32)
    chosen = make_parameterisation(DenoiserConfig("v"), process, measure_statistics(x0, process))
    for t in range(process.num_timesteps):
        shape = (32, *process.level_shape(int(process.levels[t])), 1)
        clean = chosen.inputs(process.noisy_state(x0, t, jnp.zeros(shape)), jnp.full(32, t))[0]
        noise = chosen.inputs(process.noisy_state(0 * x0, t, jnp.ones(shape)), jnp.full(32, t))[0]
        np.testing.assert_allclose(np.var(clean) + np.mean(noise) ** 2, 1, rtol=1e-4)


class Echo(nnx.Module):
    """Says what it is told: x, the path, t, and whether it is trained."""

    def __call__(self, x, t, label, *, in_level, out_level, dropout_keys=None):
        told = t + (0.0 if dropout_keys is None else 1e4)
        return x + told[:, None, None, None]


def test_a_denoiser_tells_its_network_c_in_x_and_c_noise():
    process, t = PROCESSES["box"], jnp.array([3, 5])
    stage = process.stages[-1]
    graphdef, _ = nnx.split(Echo())
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    for conditioning, told in (("timestep", np.array([3, 5])), ("log_snr", 25 * (20 - process.image_log_snr[[3, 5]]))):
        chosen = parameterisation("v", process, conditioning)
        c_in = (0.25 * process.alpha**2 + process.sigma**2)[t] ** -0.5
        output = c_in[:, None, None, None] * x + jnp.asarray(told, jnp.float32)[:, None, None, None]
        denoiser = Denoiser({}, cast(Any, graphdef), chosen)
        alpha, sigma = (table[t][:, None, None, None] for table in (process.alpha, process.sigma))
        np.testing.assert_allclose(denoiser(x, t, stage=stage), alpha * x - sigma * output, rtol=1e-4)
        trained = denoiser(x, t, stage=stage, dropout_keys=jax.random.split(jax.random.key(1), 2))
        np.testing.assert_allclose(trained, alpha * x - sigma * (output + 1e4), rtol=1e-4)


def test_a_network_that_is_given_states_as_they_are():
    """As other people's were trained: then no statistics are needed, and what the output means is the same."""
    process, t = PROCESSES["box"], jnp.array([3, 5])
    chosen = make_parameterisation(DenoiserConfig("eps", scale_inputs=False), process)
    x, output = jax.random.normal(jax.random.key(0), (2, 2, 4, 4, 1))
    np.testing.assert_array_equal(chosen.inputs(x, t)[0], x)
    stay = process.stages[-1]
    np.testing.assert_array_equal(
        chosen.z_hat(output, x, t, stage=stay), parameterisation("eps", process).z_hat(output, x, t, stage=stay)
    )
    with pytest.raises(InputError, match="'edm', which needs statistics"):
        make_parameterisation(DenoiserConfig("edm", scale_inputs=False), process)


def test_log_snr_tells_timesteps_apart():
    for config in (CONFIG, replace(CONFIG, blur=1.0), replace(CONFIG, zero_terminal_snr=True, noise_schedule="cosine")):
        told = parameterisation("x0", make_process(config), "log_snr").c_noise
        assert (np.diff(told) > 0).all() and told[0] >= 0 and told[-1] <= 1000
    heat = make_process(replace(CONFIG, num_levels=1, noise_schedule="constant", blur=2.0))
    with pytest.raises(InputError, match="'log_snr', but that cannot tell t = 0 from t = 1"):
        parameterisation("x0", heat, "log_snr")


def tiny_network() -> tuple[Any, dict]:
    config = FlexiUNetConfig(widths=(8, 8), attention_levels=(), num_heads=1, dropout=0.1)
    graphdef, state = nnx.split(make_network(config, PROCESSES["box"].level_shapes, 3, nnx.Rngs(0)))
    return graphdef, nnx.to_pure_dict(state)


@pytest.mark.nightly
def test_x0_adds_no_operation():
    """The loss, its gradient and the denoiser are the programs of a network that is called by itself."""
    process, (graphdef, parameters) = PROCESSES["box"], tiny_network()
    chosen = make_parameterisation(DenoiserConfig(), process)
    assert jax.tree.leaves(chosen) == [] and chosen == Parameterisation()
    images, keys = jnp.zeros((2, 4, 4, 3)), jax.random.split(jax.random.key(0), 2)
    for stage in process.stages:
        path: dict[str, Any] = {"in_level": stage.in_level, "out_level": stage.out_level}

        def plain_loss(parameters, stage=stage, path=path):
            time_keys, noise_keys, dropout_keys, _ = jax.vmap(partial(jax.random.split, num=4), out_axes=1)(keys)
            t = jax.vmap(lambda key: jax.random.randint(key, (), stage.t_min, stage.t_max + 1))(time_keys)
            target = process.degrade(images, stage.out_level)
            shape = (*process.level_shape(stage.in_level), 3)
            noise = jax.vmap(lambda key: jax.random.normal(key, shape))(noise_keys)
            x = process.add_noise(process.degrade(target, stage.in_level, start=stage.out_level), t, noise)
            predicted = nnx.merge(graphdef, parameters)(x, t, None, **path, dropout_keys=dropout_keys)
            weight = LOSS_WEIGHTINGS["min_snr"](jnp.exp(jnp.asarray(process.log_snr, jnp.float32))[t], 1.0)
            return jnp.mean(weight * jnp.mean(jnp.square(predicted - target), axis=(1, 2, 3)))

        def loss(parameters, stage=stage):
            return stage_loss(Denoiser(parameters, graphdef, chosen), process, stage, images, None, keys, "min_snr")

        assert program(jax.value_and_grad(loss), parameters) == program(jax.value_and_grad(plain_loss), parameters)
        x, t = jnp.zeros((2, *process.level_shape(stage.in_level), 3)), jnp.full(2, stage.t_min)

        def plain(parameters, x, t, path=path):
            return nnx.merge(graphdef, parameters)(x, t, None, **path)

        def denoise(parameters, x, t, stage=stage):
            return Denoiser(parameters, graphdef, chosen)(x, t, stage=stage)

        assert program(denoise, parameters, x, t) == program(plain, parameters, x, t)


def program(function, *arguments) -> str:
    """A function's program before compilation; of the name that all have."""

    def main(*arguments):
        return function(*arguments)

    return jax.jit(main).lower(*arguments).as_text()


@pytest.mark.nightly
def test_a_tiny_network_learns_v_and_samples():
    process, (graphdef, parameters) = PROCESSES["blur"], tiny_network()
    images = 0.8 + 0.1 * jax.random.normal(jax.random.key(0), (16, 4, 4, 3))
    chosen = make_parameterisation(DenoiserConfig("v", "log_snr"), process, measure_statistics(images, process))
    stages, adam = process.stages, optax.adam(1e-2)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def total(parameters, key):
        keys = jax.random.split(key, len(images))
        denoiser = Denoiser(parameters, graphdef, chosen)
        losses = [stage_loss(denoiser, process, stage, images, None, keys, "constant") for stage in stages]
        return sum(losses), jnp.stack(losses)

    state = adam.init(parameters)
    (_, before), _ = total(parameters, jax.random.key(1))
    for i in range(20):
        _, gradient = total(parameters, jax.random.key(i))
        updates, state = adam.update(gradient, state)
        parameters = optax.apply_updates(parameters, updates)
    (_, after), _ = total(parameters, jax.random.key(1))
    assert len(stages) == 3 and (after < 0.8 * before).all(), (before, after)
    drawn = sample(
        Denoiser(cast(dict, parameters), graphdef, chosen), plan_steps(process, num_steps=6), jax.random.key(2), 2
    )
    assert drawn.shape == (2, 4, 4, 3) and np.isfinite(drawn).all()


def test_loading_a_run_twice_compiles_once():
    """Also with statistics of other values: what is static is equal, and the rest are arguments."""
    (graphdef, parameters), stay = tiny_network(), cast(Any, parts._stay)
    stay.clear_cache()
    structures = set()
    for variance in (0.2, 0.2, 0.3):
        process = make_process(replace(CONFIG, operator="bilinear"))
        statistics = DataStatistics((variance,) * process.num_timesteps)
        chosen = make_parameterisation(DenoiserConfig("v", "log_snr"), process, statistics)
        denoiser = Denoiser(parameters, graphdef, chosen)
        structures.add(jax.tree.structure(denoiser))
        sample(denoiser, plan_steps(process, num_steps=6), jax.random.key(0), 2)
    assert len(structures) == 1 and stay._cache_size() == 2


def test_bad_input():
    with pytest.raises(InputError, match="denoiser.parameterisation is 'w', but must be one of: x0, eps, v, flow, edm"):
        DenoiserConfig("w")
    with pytest.raises(InputError, match="denoiser.conditioning is 'sigma', but must be one of: timestep, log_snr"):
        DenoiserConfig(conditioning="sigma")
    process = PROCESSES["box"]
    with pytest.raises(InputError, match=r"'v', which needs statistics of the data.*measure_statistics"):
        make_parameterisation(DenoiserConfig("v"), process)
    with pytest.raises(InputError, match=r"statistics are of 7 timesteps, but the process has 50"):
        make_parameterisation(DenoiserConfig("v"), process, DataStatistics((0.25,) * 7))


def test_kinds_that_do_not_fit_a_process_are_refused():
    """Where z-hat is what the network says times infinity, or 0, or nearly so; others take the same processes."""
    flat = DataStatistics((0.0,) * CONFIG.num_timesteps)
    with pytest.raises(InputError, match=r"'edm', .* by 0 at t = \d+ \(stay1\), where the data do not vary.*such as 'x0'"):
        make_parameterisation(DenoiserConfig("edm"), PROCESSES["box"], flat)
    weak = SeparableOperator((np.array([[1.0, 0, 0, 0], [0, 1e-2, 0, 0]]),) * 2)
    hard = {
        "stay1": make_process(replace(CONFIG, zero_terminal_snr=True)),
        "stay0": make_process(replace(CONFIG, num_levels=1, blur=2.0)),
        "up1to0": ScaleSpaceProcess((4, 4), np.array([2.0, 1.0, -1.0]), np.array([0, 0, 1]), (weak,)),
    }
    for stage, process in hard.items():
        with pytest.raises(InputError, match=rf"'eps', .* at t = \d+ \({stage}\), where there is so little .* 'v'"):
            parameterisation("eps", process)
        for kind in ("v", "flow", "edm"):
            parameterisation(kind, process)


def test_eps_flow_and_edm_are_what_they_say():
    g, sigma, variance, rng = np.array([0.9, 0.1, 0.0]), 0.4, 0.3, np.random.default_rng(0)
    z, noise = rng.standard_normal((2, 1000, 3)) * [[[variance**0.5]], [[1.0]]]
    y = g * z + sigma * noise * (g > 0)
    found = {}
    for kind in ("eps", "flow", "edm"):
        coefficients = PARAMETERISATIONS[kind]
        assert coefficients is not None
        skip, out = (np.asarray(each, np.float64) for each in coefficients(g, sigma, variance))
        found[kind] = (z - skip * y) / out
    np.testing.assert_allclose(found["eps"], np.where(g > 0, noise, -z), atol=1e-5)
    np.testing.assert_allclose(found["flow"], np.where(g > 0, noise, 0) - z, atol=1e-9)
    np.testing.assert_allclose(found["edm"].var(axis=0), 1, rtol=0.15)
