"The loader: from any step on, in any process, exactly the same batches."
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from small_batches import ALL, DATA, FULL, longer, made, same

from aam_nb.batches.asv_batches import AsvBatches
from aam_nb.batches.build import build_store
from aam_nb.batches.corpus import Corpus
from aam_nb.batches.loader import loader
from aam_nb.batches.sample_batches import PlainBatches, SampleBatches
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.turns import turns
from aam_nb.batches.view import View
from aam_nb.core import digest
from aam_nb.sections import AugmentConfig
from aam_nb.types import Study, Table, strings

TESTS = Path(__file__).parent


def test_the_loader_starts_where_it_is_told():
    source = SampleBatches(DATA, FULL, batch=4, steps=9)
    assert [o.key for o in loader(source)] == [o.key for o in source]
    assert [o.key for o in loader(source, start=6)] == [source[i].key for i in (6, 7, 8)]
    assert list(loader(source, start=9)) == [] == list(loader(source, start=9, workers=2))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_same_batches_in_the_same_order(workers):
    source, before = SampleBatches(DATA, FULL, batch=4, steps=9), torch.get_rng_state()
    found = list(loader(source, start=2, workers=workers))
    assert len(found) == 7 and all(same(o, source[i + 2]) for i, o in enumerate(found))
    assert torch.equal(before, torch.get_rng_state()) # The model's own draws are left alone


def test_a_source_that_was_sent_to_another_process_gives_the_same_batches(tmp_path):
    store = build_store(made(), tmp_path/"store")
    samples = SampleBatches(SampleDataset(store), FULL, batch=4, steps=5)
    for source in (samples, AsvBatches(store, batch=9, steps=5), PlainBatches(DATA, batch=4)):
        sent = pickle.loads(pickle.dumps(source))
        assert all(same(sent[i], source[i]) for i in range(len(source)))


def test_a_corpus_travels_to_another_process(tmp_path):
    stores = [build_store(made(), tmp_path/"a"), build_store(longer(), tmp_path/"b")]
    source = SampleBatches(SampleDataset(Corpus(stores)), ALL, batch=4, steps=6)
    sent = pickle.dumps(source)
    again = pickle.loads(sent)
    assert len(sent) < 20_000 and all(same(source[i], again[i]) for i in range(6))


def test_a_store_in_a_folder_is_not_copied_into_a_worker(tmp_path):
    rng, n = np.random.default_rng(0), 4000
    letters = np.array(list("ACGT"))[rng.integers(0, 4, (n, 60))]
    counts = sparse.random(3000, n, .01, random_state=0, format="csr", dtype=np.float64)
    counts.data[:] = rng.integers(1, 9, counts.nnz)
    sequences = strings(["".join(o) for o in letters])
    table = Table(counts=counts.astype(np.int32), sample_ids=strings(range(3000)), sequences=sequences)
    store = build_store(Study(table=table), tmp_path/"store")
    view = View(augment=AugmentConfig(), identity=64)
    source = SampleBatches(SampleDataset(store), view, batch=32, steps=10)
    assert source[0].size == 32
    # Rows, order and targets; the store itself is 2 MB, and its names 4,000 x 64
    assert len(pickle.dumps(source)) < 200_000
    assert turns(3000, 32, 3)[1][0] == 96


def environment(): return os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=str(TESTS.parent))


@pytest.mark.slow
def test_spawned_workers_map_the_same_store(tmp_path):
    "In a program of its own, since spawned workers import the main module again."
    (tmp_path/"program.py").write_text(f"""
if __name__ == "__main__":
    import sys
    sys.path.insert(0, {str(TESTS)!r})
    from small_batches import FULL, SampleBatches, SampleDataset, build_store, made, same
    from aam_nb.batches.loader import loader
    store = build_store(made(), {str(tmp_path/"store")!r})
    source = SampleBatches(SampleDataset(store), FULL, batch=4, steps=5)
    found = list(loader(source, 1, workers=2, context="spawn"))
    assert len(found) == 4 and all(same(o, source[i + 1]) for i, o in enumerate(found))
    print("same")
""")
    done = subprocess.run([sys.executable, tmp_path/"program.py"], capture_output=True, text=True,
                          timeout=240, env=environment())
    assert done.stdout.strip() == "same", done.stderr


# A position goes on with exactly the next sample

PROGRAM = """
import json, sys, time
sys.path.insert(0, {tests!r})
from aam_nb.batches.corpus import Corpus
from aam_nb.batches.loader import loader
from aam_nb.batches.sample_batches import SampleBatches
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.store import open_store
from small_batches import FULL
from test_loader import line
if __name__ == "__main__":
    folders, out, start, rank, world, workers, pause = json.loads(sys.argv[1])
    stores = [open_store(o) for o in folders]
    store = stores[0] if len(stores) == 1 else Corpus(stores)
    source = SampleBatches(SampleDataset(store), FULL, batch=4, steps=40, rank=rank, world=world)
    with open(out, "a") as f:
        for b in loader(source, start, workers):
            f.write(json.dumps(line(b)) + "\\n")
            f.flush()
            time.sleep(pause)
"""


def start(tmp_path, folders, out, begin=0, rank=0, world=1, workers=0, pause=0.):
    program = tmp_path/"program.py"
    program.write_text(PROGRAM.format(tests=str(TESTS)))
    words = json.dumps([folders, str(out), begin, rank, world, workers, pause])
    return subprocess.Popen([sys.executable, program, words], env=environment())


def line(b):
    arrays = [getattr(b, k).numpy() for k in ("tokens", "counts", "masked", "identity")]
    return [b.index.tolist(), digest(*arrays)]


def lines(path): return [json.loads(o) for o in path.read_text().splitlines()] if path.exists() else []


def test_killed_in_mid_epoch_the_next_process_makes_exactly_the_next_batch(tmp_path):
    "In other processes: the first is killed without notice, and the second has other workers."
    folders, broken = [str(tmp_path/"a"), str(tmp_path/"b")], tmp_path/"broken"
    data = SampleDataset(Corpus([build_store(made(), folders[0]), build_store(longer(), folders[1])]))
    straight = [line(o) for o in SampleBatches(data, FULL, batch=4, steps=40)]
    first = start(tmp_path, folders, broken, workers=2, pause=.05)
    while len(lines(broken)) < 7 and first.poll() is None: time.sleep(.02)
    first.send_signal(signal.SIGKILL)
    first.wait(60)
    done = lines(broken)
    assert 7 <= len(done) < 40
    assert start(tmp_path, folders, broken, begin=len(done), workers=1).wait(240) == 0
    assert lines(broken) == straight


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_two_processes_of_their_own_share_the_batches(tmp_path, workers):
    folders = [str(tmp_path/"a")]
    build_store(made(), folders[0])
    outs = [tmp_path/"one", tmp_path/"rank0", tmp_path/"rank1"]
    jobs = [start(tmp_path, folders, outs[0])]
    jobs += [start(tmp_path, folders, outs[1 + o], rank=o, world=2, workers=workers) for o in range(2)]
    assert [o.wait(300) for o in jobs] == [0, 0, 0]
    whole, a, b = map(lines, outs)
    assert len(whole) == 40 and [o[0] for o in whole] == [x[0] + y[0] for x, y in zip(a, b, strict=True)]
