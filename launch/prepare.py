"""Images or clips of any source, cropped and resized once, into shards that training reads fast and in any order.

python -m launch.prepare --config openmoji64 --config.data.source=folder --config.data.folder=PATH --out data/mine64
python -m launch.train --config openmoji64 --config.data.source=array_record --config.data.folder=data/mine64 ...

python -m launch.prepare --config clips16 --config.data.source=video --config.data.folder=PATH --out data/clips16

python -m launch.prepare --config autoencoder_openmoji128 --latents runs/autoencoder --out data/latents128

With --latents, what an autoencoder makes of the images is stored in their place, the means of its Gaussians in float32: a
config that names this autoencoder (`encoding.autoencoder`) trains on them.

Size, channels, crop (`--config.data.crop=adm` is the published one) and background are the config's. Names and counts of
the classes lie beside the shards, in dataset.json. What cannot be read is left out by name. Run the same again to go on.
"""

import shlex
from dataclasses import replace

import jax
from absl import flags

from ssd_jax.data import make_source
from ssd_jax.data.array_record import MANIFEST
from ssd_jax.data.preparation import prepare
from ssd_jax.errors import InputError, few
from ssd_jax.files.paths import to_path
from ssd_jax.run.autoencoder import load_autoencoder, of_images

from .common.command import run
from .common.config_flag import define_config, read_any_config

define_config("openmoji32")
LATENTS = flags.DEFINE_string("latents", None, "Workdir of the run of an autoencoder, whose latents to store instead.")
OUT = flags.DEFINE_string("out", None, "Folder of the shards.", required=True)


def main() -> None:
    config, out = read_any_config(), to_path(OUT.value)
    data, shape = replace(config.data, balance=False, holdout=0), config.image_shape
    if jax.process_count() > 1:
        raise InputError(
            f"launch.prepare is one process, but there are {jax.process_count()}; start one: it takes all cores"
        )
    if data.source == "array_record":
        raise InputError("data.source is array_record, which is prepared already; give what it was prepared from")
    latents = None
    if LATENTS.value is not None:
        autoencoder = load_autoencoder(LATENTS.value)
        data, latents = of_images(autoencoder.autoencoder, data), autoencoder.to_latents(shape)
    made = prepare(make_source(data, shape), out, shape=shape, crop=data.crop, background=data.background, latents=latents)
    size = sum(shard.bytes for shard in made.shards)
    left_out = f", {made.left_out} that cannot be read left out" if made.left_out else ""
    print(f"{out}: {made.images} images of {'x'.join(map(str, shape))}x{made.channels}, {size / 2**20:.1f} MiB{left_out}")
    if made.class_names:
        classes = [f"{name} {count}" for name, count in zip(made.class_names, made.class_counts, strict=True)]
        beside = made.images - sum(made.class_counts)
        print(f"classes: {few(classes)}{f'; {beside} images in none' if beside else ''} ({MANIFEST} has all)")
    if made.latents is not None:
        print(f"latents of {'x'.join(map(str, made.latents.shape))} of the autoencoder {made.latents.autoencoder}")
    flags = {"source": "array_record", "folder": out, "crop": made.crop, "background": made.background}
    named = [] if LATENTS.value is None else [f"--config.encoding.autoencoder={LATENTS.value}"]
    print(
        "train with",
        *map(shlex.quote, named),
        *(shlex.quote(f"--config.data.{name}={value}") for name, value in flags.items()),
    )


if __name__ == "__main__":
    run(main)
