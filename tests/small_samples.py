"Small samples and sequences for the tests of what varies."
import numpy as np
from hypothesis import strategies as st

from aam_nb.core import keyed_rng
from aam_nb.types import Sample


def sample(n=40, depth=5000, id="S1", seed=0):
    share = np.random.default_rng(seed).dirichlet(np.full(n, .3))
    counts = np.random.default_rng(seed).multinomial(depth - n, share) + 1
    return Sample(asv=np.arange(n)*3, counts=counts.astype(np.int32), target=np.zeros(1, np.float32), index=0,
                  id=id)

def drawn(step, n, *args): return np.array([step(*args, keyed_rng("test", i)) for i in range(n)])

def same(a, b): return a.asv.tolist() == b.asv.tolist() and a.counts.tolist() == b.counts.tolist()

sequences = st.lists(st.text("ACGTN", min_size=1, max_size=33), min_size=1, max_size=8)

def random_tokens(u=3000, l=120, seed=0):
    return np.random.default_rng(seed).integers(1, 5, (u, l)).astype(np.uint8)

def samples_of(store):
    return [Sample(asv=store.asv[a:b].astype(np.int64), counts=store.reads[a:b],
                   target=np.full(1, i, np.float32), index=i, id=f"S{i}")
            for i, (a, b) in enumerate(zip(store.indptr, store.indptr[1:], strict=False))]
