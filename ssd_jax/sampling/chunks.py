"""Batches in chunks, one after the other, so that a compiled program keeps to a limit of memory."""

from collections.abc import Callable

import jax

from ssd_jax.errors import InputError
from ssd_jax.process.stages import Stage
from ssd_jax.sampling.noise import NoiseSource


def call_in_chunks(program, *arguments, noise: NoiseSource, memory_limit: int | None, stage: Stage, **static):
    """program(*arguments, stage=stage, **static, chunk=...) with the most images at a time that `memory_limit` allows.

    Args:
        program: jitted, with static arguments `stage` and `chunk`, which hands `chunk` to `by_chunks`.
        arguments: of the program.
        noise: of every image: how many there are, and on how many devices.
        memory_limit: bytes of intermediate results on each device, None for no limit.
        stage, static: other static arguments.

    Raises:
        InputError: if a single image a device needs more.
    """
    batch, devices = len(noise.keys), len(noise.keys.sharding.device_set)
    if memory_limit is None:
        return program(*arguments, stage=stage, **static, chunk=batch)
    sizes = [size for size in range(devices, batch + 1, devices) if batch % size == 0] or [batch]
    while True:
        compiled = program.lower(*arguments, stage=stage, **static, chunk=sizes[-1]).compile()
        needed = compiled.memory_analysis().temp_size_in_bytes
        if needed <= memory_limit:
            return program(*arguments, stage=stage, **static, chunk=sizes[-1])  # which finds it compiled
        sizes, largest = sizes[:-1], sizes[-1]
        if not sizes:
            raise InputError(
                f"memory_limit is {memory_limit} bytes, but stage {stage} needs {needed} for {largest} image(s) on "
                f"{devices} device(s); raise it"
            )
        sizes = [size for size in sizes if size <= largest * memory_limit / needed] or sizes[:1]


def by_chunks(run: Callable, chunk: int, *arrays):
    """run(*arrays), `chunk` images at a time, each chunk divided among the devices as the whole batch is."""
    batch = len(arrays[0])
    if chunk == batch:
        return run(*arrays)
    leaves, structure = jax.tree.flatten(arrays)
    parts = [leaf.reshape(chunk, batch // chunk, *leaf.shape[1:]).swapaxes(0, 1) for leaf in leaves]
    results = jax.lax.map(lambda part: run(*structure.unflatten(part)), parts)
    return jax.tree.map(lambda array: array.swapaxes(0, 1).reshape(batch, *array.shape[2:]), results)
