"""Jobs over a data set: `index` writes the manifest, `check` decodes its videos again, `write_report` shows them."""

from advise_ray.dataset.checking import check
from advise_ray.dataset.indexing import index, index_folder, prepare
from advise_ray.dataset.stats import write_report

__all__ = ["check", "index", "index_folder", "prepare", "write_report"]
