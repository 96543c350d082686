"""How good generated images are: distances between sets of images, in any feature space."""

from ssd_jax.metrics.distances import frechet_distance as frechet_distance
from ssd_jax.metrics.distances import inception_score as inception_score
from ssd_jax.metrics.distances import kernel_distance as kernel_distance
from ssd_jax.metrics.distances import nearest as nearest
from ssd_jax.metrics.distances import precision_recall as precision_recall
from ssd_jax.metrics.evaluation import Reference as Reference
from ssd_jax.metrics.evaluation import data_reference as data_reference
from ssd_jax.metrics.evaluation import evaluate as evaluate
from ssd_jax.metrics.evaluation import measure_reference as measure_reference
from ssd_jax.metrics.features import FeatureSet as FeatureSet
from ssd_jax.metrics.features import low_pass_pixels as low_pass_pixels
from ssd_jax.metrics.features import random_convolutions as random_convolutions
from ssd_jax.metrics.inception import InceptionV3 as InceptionV3
from ssd_jax.metrics.inception import inception_features as inception_features
from ssd_jax.metrics.memorisation import Memorisation as Memorisation
from ssd_jax.metrics.memorisation import memorisation as memorisation
from ssd_jax.metrics.spectral import SpectralRatios as SpectralRatios
from ssd_jax.metrics.spectral import spectral_ratios as spectral_ratios
from ssd_jax.metrics.statistics import Measured as Measured
from ssd_jax.metrics.statistics import Moments as Moments
from ssd_jax.metrics.statistics import Statistics as Statistics
from ssd_jax.metrics.statistics import cached_measure as cached_measure
from ssd_jax.metrics.statistics import load_statistics as load_statistics
from ssd_jax.metrics.statistics import measure as measure
from ssd_jax.metrics.statistics import moments as moments
from ssd_jax.metrics.statistics import save_statistics as save_statistics
