"Small studies with something planted in them, and words for what checks find."
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
from scipy import sparse

from aam_nb.data.metadata import read_metadata
from aam_nb.data.simulate import simulate
from aam_nb.data.study import make_study
from aam_nb.data.table import read_table
from aam_nb.data.tree import read_tree
from aam_nb.evaluation.inspect import inspect_study, quick_checks
from aam_nb.evaluation.question import Question
from aam_nb.types import strings


@cache
def small(): return simulate(samples=120, asvs=200, groups=30, seed=0)


@cache
def real(folder, name):
    "A study of the folder of real ones."
    folder = folder/name
    table, metadata = read_table(folder/"table.biom"), read_metadata(folder/"metadata.tsv")
    return make_study(table, metadata, read_tree(folder/"tree.nwk"))


def with_counts(study, counts, ids=None):
    "The study with other counts, and other ids where they are given."
    counts = sparse.csr_matrix(np.asarray(counts, dtype=np.int32))
    ids = study.ids if ids is None else strings(ids)
    return replace(study, table=replace(study.table, counts=counts, sample_ids=ids))


def with_columns(study, **columns):
    "The study with further columns of metadata, or others in their place."
    return replace(study, metadata=study.metadata.assign(**columns))


def with_again(study, row, name="again", subject=None, seed=None):
    "One more sample: a copy of one that is there, or with a seed a second draw of it."
    counts = study.table.counts.toarray()
    new = counts[row]
    if seed is not None: new = np.random.default_rng(seed).multinomial(new.sum(), new/new.sum())
    metadata = pd.concat([study.metadata, study.metadata.iloc[[row]].set_axis([name])])
    if subject: metadata.loc[name, "subject"] = subject
    return replace(with_counts(study, np.vstack([counts, new]), [*study.ids, name]), metadata=metadata)


def quick(study, target="", groups="", most=2000, **more):
    "The quick checks of a question."
    return quick_checks(study, Question(target=target, groups=groups, **more), most)


def look(study, target="", groups="", most=20_000, **more):
    "The inspection of a question."
    return inspect_study(study, Question(target=target, groups=groups, **more), most)


def kinds(findings, severity=None): return {o.kind for o in findings if severity in (None, o.severity)}


def text_of(findings, kind): return " ".join(o.text for o in findings if o.kind == kind)
