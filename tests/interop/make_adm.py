"""Writes tests/golden/adm.npz: what guided-diffusion's own U-Net makes of noise, with the weights that `weights` makes.

pip install torch blobfile  # in an environment of its own; made with torch 2.13.0
PYTHONPATH=CHECKOUT python -m tests.interop.make_adm  # a checkout of guided-diffusion, or of code with its `UNetModel`
"""

import zlib
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden" / "adm.npz"
SIZE, BATCH = 16, 2
COMMON: dict[str, Any] = {"image_size": SIZE, "in_channels": 3, "model_channels": 32, "use_scale_shift_norm": True}
VARIANTS: dict[str, dict[str, Any]] = {  # as arguments of UNetModel
    "baseline": {
        "out_channels": 3,
        "num_res_blocks": 1,
        "channel_mult": (1, 2),
        "attention_resolutions": (2,),
        "num_heads": 4,
    },
    "adm": {
        **{"out_channels": 6, "num_res_blocks": 2, "channel_mult": (1, 1, 2), "attention_resolutions": (2, 4)},
        **{"num_head_channels": 16, "resblock_updown": True, "use_new_attention_order": True, "num_classes": 5},
    },
}


def weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Random tensors of these names and shapes, each of its own name's seed: no file need hold them."""

    def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
        noise = np.random.RandomState(zlib.crc32(name.encode())).normal(size=shape).astype(np.float32)
        if len(shape) > 1:
            return noise * np.float32(np.prod(shape[1:])) ** -0.5
        return noise * np.float32(0.1) + np.float32(name.endswith("weight"))

    return {name: tensor(name, tuple(shape)) for name, shape in shapes.items()}


def main() -> None:
    import torch  # pyright: ignore[reportMissingImports]
    from guided_diffusion.unet import UNetModel  # pyright: ignore[reportMissingImports]

    random, arrays = np.random.RandomState(0), {}
    for variant, settings in VARIANTS.items():
        model = UNetModel(**COMMON, **settings).eval()
        tensors = weights({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
        model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
        x = random.normal(size=(BATCH, 3, SIZE, SIZE)).astype(np.float32)
        t = random.randint(0, 1000, BATCH)
        inputs = {"x": torch.from_numpy(x), "timesteps": torch.from_numpy(t)}
        if "num_classes" in settings:
            arrays[f"{variant}/y"] = random.randint(0, settings["num_classes"], BATCH)
            inputs["y"] = torch.from_numpy(arrays[f"{variant}/y"])
        if "cond_rs" in signature(model.forward).parameters:  # of the Flexi-UNet, which this one does not look at
            inputs["cond_rs"] = None
        with torch.no_grad():
            arrays |= {f"{variant}/x": x, f"{variant}/t": t, f"{variant}/out": model(**inputs).numpy()}  # NCHW
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    main()
