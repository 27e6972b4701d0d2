"""Tables in, user histories out: formats, checks, filters, splits, public data sets."""

from genrec.data.dataset import Dataset
from genrec.data.histories import Histories, pad_histories
from genrec.data.parquet import read_parquet
from genrec.data.prepare import make_dataset, prepare_dataset
from genrec.data.public import cached_source, fetch_source

__all__ = [
    "Dataset",
    "Histories",
    "cached_source",
    "fetch_source",
    "make_dataset",
    "pad_histories",
    "prepare_dataset",
    "read_parquet",
]
