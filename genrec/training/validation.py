"""Validation by real decoding: the lists that a user would get, scored over the full catalogue."""

import re
from collections.abc import Callable
from typing import Protocol

import numpy as np
from torch import nn

from genrec.config import DecodingConfig, TrainingConfig
from genrec.data.histories import Histories
from genrec.errors import ConfigError, DataError


def decoding_validation(dataset, config, decoding):
    raise NotImplementedError
