"""The `sample` section of a config."""

from dataclasses import dataclass

from ssd_jax.errors import check_name, check_range, section
from ssd_jax.process.config import MAX_TIMESTEPS
from ssd_jax.sampling.guidance import MAX_GUIDANCE
from ssd_jax.sampling.plan import DEFAULT_STEPS
from ssd_jax.sampling.solvers import SOLVERS
from ssd_jax.sampling.spacing import SPACING_NAMES


@section("sample")
@dataclass(frozen=True)
class SampleConfig:
    """How images are drawn unless told otherwise: in training, by `Trained.sample` and by the commands.

    Attributes:
        num: images in a grid while training.
        solver: a key of solvers.SOLVERS.
        num_steps: network calls per image.
        spacing: where they are: a key of spacing.SPACINGS, or "optimal", a search of seconds (`search.optimal_timesteps`).
        guidance: scale of classifier-free guidance, >= 0; 1 is none.
    """

    num: int = 64
    solver: str = "dpmpp_2m"
    num_steps: int = DEFAULT_STEPS
    spacing: str = "log_snr"
    guidance: float = 1.0

    def __post_init__(self):
        check_range("sample.num", self.num, low=1, high=2**16)
        check_name("sample.solver", self.solver, SOLVERS)
        check_range("sample.num_steps", self.num_steps, low=1, high=MAX_TIMESTEPS + 1)
        check_name("sample.spacing", self.spacing, SPACING_NAMES)
        check_range("sample.guidance", self.guidance, low=0, high=MAX_GUIDANCE)
