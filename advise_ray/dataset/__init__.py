"""Jobs over a data set: `index` writes the manifest, `check` decodes its videos again, `write_report` shows them."""

from advise_ray.dataset.checking import check
from advise_ray.dataset.indexing import index, prepare
from advise_ray.dataset.stats import write_report

__all__ = ["check", "index", "prepare", "write_report"]
