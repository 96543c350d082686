"""Draws images with the programs of a bundle, in which a copy of this file lies. Needs jax and flatbuffers.

load("bundle")(seed=0, num=16, label="food")  # float32 [16, h, w, channels] in [-1, 1]; image i is that of (seed, i, label)
"""

import hashlib
import json
from pathlib import Path

import jax.export
import numpy as np

FORMAT = 2
TYPES = {"F32": np.float32, "F16": np.float16, "I8": np.int8, "I32": np.int32}


def read_arrays(data):
    """Of a safetensors file, by name: int8 has the scale of each output beside it."""
    start, arrays = 8 + int.from_bytes(data[:8], "little"), {}
    for name, each in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, end = each["data_offsets"]
            arrays[name] = np.frombuffer(data[start + first : start + end], TYPES[each["dtype"]]).reshape(each["shape"])
    for name in [name for name, array in arrays.items() if array.dtype == np.int8]:
        arrays[name] = arrays[name] * arrays.pop(f"{name}_scale")
    return {name: array.astype(np.float32) if array.dtype == np.float16 else array for name, array in arrays.items()}


def load(folder):
    """draw(seed, num, label): a class by name or number, or one for each image; the classes in turn if there is none."""
    manifest = json.loads(Path(folder, "manifest.json").read_text())
    written = tuple(int(number) for number in manifest["jax"].split(".")[:2])
    too_old = manifest["calling_convention"] < jax.export.minimum_supported_calling_convention_version
    if manifest["format"] != FORMAT or too_old or jax.__version_info__[:2] < written:
        raise ValueError(f"{folder} was written by JAX {manifest['jax']}, but this is {jax.__version__}: export it by this")
    sha256 = manifest.pop("sha256")
    files = {name: Path(folder, name).read_bytes() for name in set(sha256) - {"manifest.json"}}
    files["manifest.json"] = json.dumps(manifest).encode()  # all that it says but for digests
    damaged = [name for name, data in files.items() if hashlib.sha256(data).hexdigest() != sha256.get(name)]
    if damaged:
        raise ValueError(f"in {folder}, {', '.join(damaged)} is damaged, or of another bundle; copy it again")
    weights = jax.device_put(read_arrays(files["model.safetensors"]))
    plan, parts = read_arrays(files["plan.safetensors"]), []
    for stage in manifest["stages"]:
        tables = [plan[f"{stage}.{i}"] for i in range(sum(name.startswith(f"{stage}.") for name in plan))]
        parts.append((jax.jit(jax.export.deserialize(bytearray(files[f"{stage}.stablehlo"])).call), jax.device_put(tables)))

    def draw(seed, num, label=None):
        keys, classes = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), np.arange(num)), manifest["classes"]
        label = classes.index(label) if isinstance(label, str) else label
        label = np.arange(num) % max(len(classes), 1) if label is None else np.broadcast_to(label, num)
        if not set(label.tolist()) <= set(range(max(len(classes), 1))):
            raise ValueError(f"label is {label}, but must be of {len(classes)} classes: {classes}")
        x = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, manifest["timesteps"]), manifest["start"]))(keys)
        earlier = (x,) * manifest["carried"]
        for call, tables in parts:
            x, earlier = call(weights, jax.random.key_data(keys), np.int32(label) if classes else None, x, earlier, tables)
        return x

    return draw
