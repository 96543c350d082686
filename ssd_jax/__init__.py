"""Scale Space Diffusion in JAX: noisy states are processed as the small images they are."""

from ssd_jax import interop as interop
from ssd_jax.build import Experiment as Experiment
from ssd_jax.build import build as build
from ssd_jax.config import Config as Config
from ssd_jax.config import DataConfig as DataConfig
from ssd_jax.config import DenoiserConfig as DenoiserConfig
from ssd_jax.config import FlexiDiTConfig as FlexiDiTConfig
from ssd_jax.config import FlexiUNetConfig as FlexiUNetConfig
from ssd_jax.config import ProcessConfig as ProcessConfig
from ssd_jax.config import SampleConfig as SampleConfig
from ssd_jax.config import TrainConfig as TrainConfig
from ssd_jax.errors import InputError as InputError
from ssd_jax.network.denoiser import Denoiser as Denoiser
from ssd_jax.network.flexi_unet import FlexiUNet as FlexiUNet
from ssd_jax.process.config import make_process as make_process
from ssd_jax.process.process import ScaleSpaceProcess as ScaleSpaceProcess
from ssd_jax.run.load import load as load
from ssd_jax.run.train import train as train
from ssd_jax.run.trained import Trained as Trained
from ssd_jax.sampling import editing as editing
from ssd_jax.sampling.guidance import Guidance as Guidance
from ssd_jax.sampling.plan import Plan as Plan
from ssd_jax.sampling.plan import plan_steps as plan_steps
from ssd_jax.sampling.sampler import Snapshot as Snapshot
from ssd_jax.sampling.sampler import iterate as iterate
from ssd_jax.sampling.sampler import sample as sample
from ssd_jax.training.stage_sampling import Stage as Stage

__version__ = "0.1.0"
