"""What the published models of Scale Space Diffusion were like."""

from ssd_jax.config import FlexiUNetConfig, ProcessConfig

_LARGE = 256  # pixels, from which on networks are deeper


def network(image_size: int) -> FlexiUNetConfig:
    """About the published network of 64 or 256 px."""
    widths = (128, 256, 384, 512) if image_size < _LARGE else (128, 128, 256, 256, 512, 512)
    return FlexiUNetConfig(widths=widths, num_res_blocks=2, attention_levels=tuple(range(len(widths) // 2, len(widths))))


def process(image_size: int, num_timesteps: int = 1000) -> ProcessConfig:
    """The published process of most levels, with an ideal low-pass, whose errors are told from the schedule's."""
    levels = len(network(image_size).widths)
    return ProcessConfig(
        image_size=image_size, num_levels=levels, num_timesteps=num_timesteps, operator="ideal", snr_policy="published"
    )
