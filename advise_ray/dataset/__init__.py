"""Ray Data jobs on a data set: `index` writes a manifest, `check` decodes its videos, `write_report` describes them.
`suggest` chooses settings for them, without Ray.

This package must not import models.
"""

from advise_ray.dataset.checking import check
from advise_ray.dataset.indexing import index, index_folder, prepare
from advise_ray.dataset.stats import write_report
from advise_ray.dataset.suggestion import suggest

__all__ = ["check", "index", "index_folder", "prepare", "suggest", "write_report"]
