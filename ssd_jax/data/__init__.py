"""Images in: sources that hold them and one Grain pipeline that shuffles, flips and batches them."""

from ssd_jax.data.arrays import ArraySource as ArraySource
from ssd_jax.data.classes import check_classes as check_classes
from ssd_jax.data.encoding import Encoding as Encoding
from ssd_jax.data.encoding import PixelEncoding as PixelEncoding
from ssd_jax.data.pipeline import make_iterator as make_iterator
from ssd_jax.data.protocol import Source as Source
from ssd_jax.data.protocol import image_batches as image_batches
from ssd_jax.data.sources import SOURCES as SOURCES
from ssd_jax.data.sources import DataConfig as DataConfig
from ssd_jax.data.sources import make_source as make_source
