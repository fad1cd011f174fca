"""Models that are grown after a merge. Importing this has transformers know them without remote code.

`from_pretrained` then loads the output of `mergekit-omp grow` as any other model.
"""

from mergekit_omp.growth.over_encoding import register

register()
