"""The Ray Data jobs over a data set: `index` probes every video and writes the manifest, `check` decodes one again."""

from advise_ray.dataset.checking import check
from advise_ray.dataset.indexing import index, prepare
from advise_ray.dataset.summary import describe

__all__ = ["check", "describe", "index", "prepare"]
