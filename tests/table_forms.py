"A small count table in each form that a file of counts may have, and what a sound table is."
import gzip
import json
import zipfile

import numpy as np
from scipy import sparse

from aam_nb.data.biom import write_table
from aam_nb.data.sequences import LETTERS
from aam_nb.types import Table, strings


def numbered(i):
    "A sequence of 8 bases that spells the number `i`."
    return "".join("ACGT"[(i >> 2*k) & 3] for k in range(8))


def table(counts, samples=None, sequences=None):
    counts = sparse.csr_matrix(np.asarray(counts, dtype=np.int32))
    n, m = counts.shape
    samples = samples or [f"S{i}" for i in range(n)]
    return Table(counts=counts, sample_ids=strings(samples),
                 sequences=strings(sequences or [numbered(i) for i in range(m)]))


TINY = table([[3, 0, 1], [0, 5, 5], [0, 0, 0]])


def same(a, b):
    assert (a.counts != b.counts).nnz == 0 and a.counts.shape == b.counts.shape
    assert list(a.sample_ids) == list(b.sample_ids) and list(a.sequences) == list(b.sequences)


def sound(t):
    "What a `Table` promises."
    assert t.counts.dtype == np.int32 and t.counts.has_canonical_format
    assert (t.counts.data > 0).all() and t.counts.nnz
    assert t.counts.shape == (len(t.sample_ids), len(t.sequences)) and t.counts.indices.dtype == np.int32
    for o in (t.sample_ids, t.sequences):
        assert o.dtype == object and len(set(o)) == len(o) and all(type(x) is str and x for x in o)
    assert not set("".join(t.sequences)) - set(LETTERS)


def as_json(t, dense=False):
    c = t.counts.T.tocoo()
    triples = [[int(i), int(j), int(v)] for i, j, v in zip(c.row, c.col, c.data)]
    data = t.counts.T.toarray().tolist() if dense else triples
    return dict(id=None, format="Biological Observation Matrix 1.0.0",
                matrix_type="dense" if dense else "sparse", shape=list(c.shape), data=data,
                rows=[dict(id=o, metadata=None) for o in t.sequences],
                columns=[dict(id=o, metadata=None) for o in t.sample_ids])


def as_tsv(t, end="\n"):
    rows = [f"{s}\t" + "\t".join(map(str, r)) for s, r in zip(t.sequences, t.counts.T.toarray())]
    return end.join(["# Constructed from biom file", "#OTU ID\t" + "\t".join(t.sample_ids), *rows, ""])


def qza(path, data, kind="FeatureTable[Frequency]", member="feature-table.biom", **more):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("6e4d/metadata.yaml", f"uuid: 6e4d\ntype: {kind}\nformat: any\n")
        z.writestr(f"6e4d/data/{member}", data)
        for name, content in more.items(): z.writestr(f"6e4d/{name.replace('__', '.')}", content)
    return path


FORMS = ["t.biom", "old.biom", "dense.json", "t.tsv", "mac.txt", "t.tsv.gz", "t.biom.gz", "t.qza", "old.qza"]


def write_forms(folder):
    "Writes the same table in each form; returns the folder."
    write_table(TINY, folder/"t.biom")
    (folder/"old.biom").write_text(json.dumps(as_json(TINY)))
    (folder/"dense.json").write_text(json.dumps(as_json(TINY, dense=True)))
    (folder/"t.tsv").write_text(as_tsv(TINY))
    (folder/"mac.txt").write_bytes(as_tsv(TINY, "\r").encode("utf-8-sig"))
    (folder/"t.tsv.gz").write_bytes(gzip.compress(as_tsv(TINY, "\r\n").encode()))
    (folder/"t.biom.gz").write_bytes(gzip.compress((folder/"t.biom").read_bytes()))
    qza(folder/"t.qza", (folder/"t.biom").read_bytes())
    qza(folder/"old.qza", (folder/"old.biom").read_bytes())
    return folder
