"""Matplotlib, for the commands that draw figures: an extra of the package, without which they end in one line."""

from .command import fail

try:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
except ModuleNotFoundError as error:
    fail(f"{error}; this command draws figures: pip install 'ssd_jax[figures]'")
