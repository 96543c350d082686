"""Says what a config costs on a machine that need not be here: does it fit, and how long would it take?

python -m launch.forecast --config configs/openmoji64.py --hardware v5e:2x2 [--quick --json --samples 64]

Compiles the very programs that training and sampling run, for that machine: memory, traffic and collectives are its
compiler's. Operations are counted. Times are at published peaks, so they are the least that it can take, not what it will;
beside them stand the compiler's own where it has any that can be. Beside all of it one level: the same network at full
resolution. If a training step does not fit, settings are tried that would make it, each compiled. --quick compiles the
largest programs only. What was compiled is kept: the command can be stopped and goes on where it was.

Of latents, whose autoencoder's config.json must be there, making pictures of samples counts as well. Of an autoencoder the
training step is told; the grids of its 16 reconstructions are not.

Hardware is KIND:SHAPE: v4, v5e, v5p, v6e and the shape of their slice (--hardware=v5e:4x8), which take the package libtpu;
a100, a100_40gb, h100, h200, b200 and their number (h100:8), which take jax[cuda13]; or cpu and a number of devices.
"""

from absl import flags

from ssd_jax.config import Config
from ssd_jax.errors import InputError

from ..common.command import run
from ..common.config_flag import define_config, read_any_config
from .costs import grid_costs, next_multiple, sampling_costs, training_costs, with_one_level
from .machines import find_machine
from .remedies import remedies
from .tables import Forecast, as_json, as_text

define_config()
HARDWARE = flags.DEFINE_string("hardware", None, "KIND:SHAPE, as in v5e:4x8 or h100:8.", required=True)
QUICK = flags.DEFINE_bool("quick", False, "Compiles the largest program of training and sampling only.")
JSON = flags.DEFINE_bool("json", False, "Prints all of it as JSON instead of tables.")
SAMPLES = flags.DEFINE_integer(
    "samples", None, "Images drawn in a batch; those of config.sample, or the next multiple of the devices.", lower_bound=1
)


def main() -> None:
    config, machine = read_any_config(), find_machine(HARDWARE.value)
    if SAMPLES.present and not isinstance(config, Config):
        raise InputError(f"--samples is {SAMPLES.value}, but an autoencoder draws none; leave it out")
    configs, quick = {"levels": config}, QUICK.value
    if isinstance(config, Config) and config.process.num_levels > 1:
        configs["one level"] = with_one_level(config)
    training = {name: training_costs(each, machine, quick) for name, each in configs.items()}
    sampling, grids = {}, None
    if isinstance(config, Config):
        num = next_multiple(SAMPLES.value or config.sample.num, len(machine.devices))
        sampling = {n: sampling_costs(each, machine, num, quick) for n, each in configs.items() if isinstance(each, Config)}
        grids = grid_costs(config, machine, quick)
    tried = [] if training["levels"].largest.fits in (True, None) else remedies(config, machine)
    forecast = Forecast(config, machine, training, sampling, grids, tried)
    print(as_json(forecast) if JSON.value else as_text(forecast))


if __name__ == "__main__":
    run(main)
