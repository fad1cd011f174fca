"""What can run on this machine: tests are parametrised over it."""

from __future__ import annotations

import torch

from mergekit_omp.pursuit.choice import SEARCHES
from mergekit_omp.pursuit.ways import Way, available

CPU = torch.device("cpu")
WAYS = available(CPU)
SCREENS = [way for way in WAYS if way is not Way.GRAM]
EVERY_SEARCH = [
    name for name in SEARCHES if name in {"auto", "fast"} | {way.search for way in WAYS}
]
EXACT_SEARCHES = [name for name in EVERY_SEARCH if name != "fast"]
