"Metadata columns that several tests read, and codecs saved and read again."
import json

import numpy as np
import pandas as pd

from aam_nb.config import config_from
from aam_nb.data.codec import TargetCodec

META = pd.DataFrame(dict(age=[1., 2., 3., 4., np.nan, 60.], ph=[5., 6., 7., 8., 6., 7.],
                         site=["gut", "skin", None, "gut", "skin", "oral"],
                         run=["a", "a", "b", "b", "b", "b"], w=[1., 2., 0., 1., 1., 3.]),
                    index=list("ABCDEF"))


def several(target="age, site, ph", task="auto", **kwargs):
    return config_from({"data": dict(target=target, task=task), "target": kwargs})


def some(n=60, seed=0, missing=5):
    "Skewed numbers in [-.5, ...), a category for each, and a few of either missing."
    rng = np.random.default_rng(seed)
    names = [f"S{i}" for i in range(n)]
    y = pd.Series(np.exp(rng.normal(2, 1, n)) - .5, index=names, name="y")
    by = pd.Series(rng.choice(list("aaab"), n), index=names, name="g", dtype=object)
    y.iloc[rng.choice(n, missing, replace=False)] = np.nan
    by.iloc[rng.choice(n, missing, replace=False)] = None
    return y, by


def back(codec): return TargetCodec.from_dict(json.loads(json.dumps(codec.to_dict())))
