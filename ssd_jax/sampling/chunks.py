"""Batches in chunks, one after the other, so that a compiled program keeps to a limit of memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from ssd_jax.errors import InputError
from ssd_jax.sampling.noise import NoiseSource


@dataclass(frozen=True, eq=False)
class Program:
    """A jitted function with all of its arguments but `chunk`, the images to take at a time, which it hands to `by_chunks`.

    Attributes:
        function: jitted; `chunk` is a static argument.
        arguments: arrays, or pytrees of them, by name.
        static: the other static arguments; `stage` is one.
        noise: of every image: how many there are, and on how many devices.
    """

    function: Any
    arguments: dict
    static: dict
    noise: NoiseSource

    def __call__(self, chunk: int | None = None) -> Any:
        """The result, with `chunk` images at a time, or all."""
        return self.function(**self.arguments, **self.static, chunk=chunk or len(self.noise.keys))

    def lower(self, chunk: int | None = None) -> Any:
        """The `jax.stages.Lowered` of the call."""
        return self.function.lower(**self.arguments, **self.static, chunk=chunk or len(self.noise.keys))

    def fitting_chunk(self, memory_limit: int | None) -> int:
        """The most images at a time, over all devices, that keep to a limit: the batch size, or a divisor of it.

        Compiles to find out; a call with that chunk finds the program compiled.

        Args:
            memory_limit: bytes of intermediate results on each device, None for no limit.

        Raises:
            InputError: if a single image a device needs more.
        """
        batch, devices = len(self.noise.keys), len(self.noise.keys.sharding.device_set)
        if memory_limit is None:
            return batch
        sizes = [size for size in range(devices, batch + 1, devices) if batch % size == 0] or [batch]
        while True:
            needed = self.lower(sizes[-1]).compile().memory_analysis().temp_size_in_bytes
            if needed <= memory_limit:
                return sizes[-1]
            sizes, largest = sizes[:-1], sizes[-1]
            if not sizes:
                raise InputError(
                    f"memory_limit is {memory_limit} bytes, but stage {self.static['stage']} needs {needed} for {largest} "
                    f"image(s) on {devices} device(s); raise it"
                )
            sizes = [size for size in sizes if size <= largest * memory_limit / needed] or sizes[:1]


def by_chunks(run: Callable, chunk: int | None, *arrays):
    """run(*arrays), `chunk` images at a time, or all, each chunk divided among the devices as the whole batch is."""
    if chunk is None or chunk == len(arrays[0]):
        return run(*arrays)
    batch = len(arrays[0])
    leaves, structure = jax.tree.flatten(arrays)
    parts = [leaf.reshape(chunk, batch // chunk, *leaf.shape[1:]).swapaxes(0, 1) for leaf in leaves]
    results = jax.lax.map(lambda part: run(*structure.unflatten(part)), parts)
    return jax.tree.map(lambda array: array.swapaxes(0, 1).reshape(batch, *array.shape[2:]), results)
