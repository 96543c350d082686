"""Takes a trained run out of this library: programs, weights and a model card in one folder.

python -m launch.export --workdir runs/x --out bundle
python -m launch.export --workdir runs/x --out bundle --quantize int8 --solver dpmpp_2m --num_steps 12 --spacing optimal

A program for each stage as StableHLO, for CPUs, NVIDIA GPUs and TPUs and any number of images at a time, with the plan and
the guidance that the flags of the sampler ask for. standalone.py beside them draws with them where there is no ssd_jax.
`ssd_jax.load(FOLDER)` reads the folder, too. --quantize says what the weights are stored as, not what is computed with.
"""

from absl import flags

from ssd_jax.errors import InputError
from ssd_jax.interop.bundle import write_bundle
from ssd_jax.run.quantization import QUANTIZED

from .common import report, run_flags, sampler_flags
from .common.command import run

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained run.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder of the bundle; must be empty or new.", required=True)
QUANTIZE = flags.DEFINE_enum("quantize", None, QUANTIZED, "Rounds the weights.")

# Flags of the sampler that say which images are drawn, and how many at a time.
OF_DRAWING = (sampler_flags.LABEL, sampler_flags.SEED, sampler_flags.BATCH, sampler_flags.MEMORY)


def main() -> None:
    for flag in OF_DRAWING:
        if flag.present:
            raise InputError(f"--{flag.name} is given, but a bundle draws any images; leave it out")
    if sampler_flags.GUIDE.present:
        raise InputError("--guide is given, but a bundle has the weights of one model; leave it out")
    trained = run_flags.load(WORKDIR.value)
    denoise, plan = sampler_flags.denoiser(trained), sampler_flags.plan(trained)
    sizes = write_bundle(trained, denoise, plan, OUT.value, QUANTIZE.value)
    print(report.plain([{"file": name, "bytes": size} for name, size in sizes.items()]))


if __name__ == "__main__":
    run(main)
