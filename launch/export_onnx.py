"""Writes a trained run in ONNX, for onnxruntime: a graph for each stage, and one file with the weights of all.

bash launch/onnx_environment.sh ~/onnx
~/onnx/bin/python -m launch.export_onnx --workdir runs/x --out exported/x
~/onnx/bin/python -m launch.export_onnx --workdir runs/x --out exported/small --quantize int8

jax2onnx, which converts, asks for another orbax-checkpoint than ssd_jax: the first line makes an environment that has both.
`ssd_jax/interop/onnx_stages.py` says what is in the folder. Graphs compute in float32; --quantize is what the file holds
weights as. Every stage is compared with the library, its weights as rounded, before the folder is there; what the
rounding changes in predictions from white noise is printed beside it.
"""

from absl import flags

from ssd_jax.errors import InputError
from ssd_jax.files.paths import bytes_of, new_folder, to_path
from ssd_jax.interop import onnx_stages
from ssd_jax.run.quantization import QUANTIZED

from .common import report, run_flags
from .common.command import run

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained run.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder for the graphs and weights; must be empty or new.", required=True)
QUANTIZE = flags.DEFINE_enum("quantize", None, QUANTIZED, "Rounds the weights in the file.")

TOLERANCE = 1e-4  # of z, whose pixels are about 1


def main() -> None:
    onnx_stages.check_installed()
    trained, out = run_flags.load(WORKDIR.value), to_path(OUT.value)
    with new_folder(out) as folder:
        network = onnx_stages.export_stages(trained, folder, QUANTIZE.value)
        found = onnx_stages.greatest_differences(onnx_stages.onnx_denoiser(folder), network, trained)
        for stage, difference in found.items():
            if not difference <= TOLERANCE:
                raise InputError(
                    f"stage {stage} is {difference:.2g} off the library in onnxruntime, but must be within {TOLERANCE:g}; "
                    "take other versions of jax2onnx and onnxruntime"
                )
        lost = onnx_stages.greatest_differences(network, trained.network, trained)
        kib = {path.name: (bytes_of(path) or 0) / 1024 for path in folder.iterdir()}
    rows: list[report.Row] = [
        {
            "file": f"{stage}.onnx",
            "KiB": kib[f"{stage}.onnx"],
            "x": report.size(trained.process.level_shape(stage.in_level)),
            "z": report.size(trained.process.level_shape(stage.out_level)),
            "t": f"{stage.t_min} .. {stage.t_max}",
            "off the library": found[stage],
            "off the run": lost[stage],
        }
        for stage in trained.process.stages
    ]
    print(report.plain(rows, digits=3))
    weights = f"{kib[onnx_stages.WEIGHTS]:.0f} KiB of weights in {QUANTIZE.value or 'float32'}"
    print(f"{out}: {len(rows)} graphs of step {trained.step}, {weights} in {onnx_stages.WEIGHTS}")


if __name__ == "__main__":
    run(main)
