"""A store whose arrays make no sense is refused, however well its digests fit, and a file that is cut short
while it is used is noticed."""
import json
import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from small_stores import made

from aam_nb.batches.arrays import metadata_text, study_arrays
from aam_nb.batches.asv_batches import AsvBatches
from aam_nb.batches.build import build_store
from aam_nb.batches.manifest import describe_arrays, make_manifest
from aam_nb.batches.sample_batches import PlainBatches, SampleBatches
from aam_nb.batches.samples import asvs_in, SampleDataset
from aam_nb.batches.sound import _cross, _falls, _unsorted, check_arrays
from aam_nb.batches.store import open_store
from aam_nb.batches.view import View
from aam_nb.batches.write import write_arrays, write_manifest
from aam_nb.core import AamError
from aam_nb.disk import sealed


def put(folder, arrays, **more):
    "A store of any arrays, with the digests that they have."
    folder.mkdir(exist_ok=True)
    write_arrays(folder, [arrays])
    write_manifest(folder, make_manifest(describe_arrays(arrays), **more))
    return folder


def changed(array, at, value):
    out = array.copy()
    out[at] = value
    return out


def swapped(array, i, j): return changed(array, [i, j], array[[j, i]])


def another(ids): return metadata_text(pd.DataFrame(dict(age=np.arange(len(ids))), index=ids))


# name, what becomes of the array of a store of 7 samples and 30 ASVs, what the message says
WRONG = [
    ("asv", lambda o: changed(o, 3, 30), "asv holds 30, wanted 0 to 29"),
    ("asv", lambda o: changed(o, 0, -1), "asv holds -1"),
    ("asv", lambda o: changed(o, 0, 2**31 - 1), "asv holds 2,147,483,647"),
    ("asv", lambda o: changed(o, 1, o[0]), "ASVs of sample 1 do not ascend"),
    ("asv", lambda o: swapped(o, len(o) - 1, len(o) - 2), "ASVs of sample 7 do not ascend"),
    ("asv", lambda o: o.astype(np.int64), "asv has the type <i8"),
    ("asv", lambda o: o[:-1], "entries"),
    ("reads", lambda o: changed(o, 5, -3), "reads holds -3, wanted 1"),
    ("reads", lambda o: changed(o, 5, 0), "reads holds 0"),
    ("reads", lambda o: changed(o.astype(np.float64), 5, np.nan), "reads has the type <f8"),
    ("indptr", lambda o: changed(o, 3, o[-1] + 9), "does not ascend"),
    ("indptr", lambda o: changed(o, 0, -2), "indptr goes from -2"),
    ("indptr", lambda o: changed(o, -1, 10**15), "indptr goes from 0 to 1,000,000,000,000,000"),
    ("indptr", lambda o: o[:-1], "indptr has 7 entries, wanted 8"),
    ("keys", lambda o: np.sort(o), "keys are not those"),
    ("sequences", lambda o: swapped(o, 0, 1), "sequences do not ascend"),
    ("sequences", lambda o: changed(o, 1, o[0]), "sequences do not ascend"),
    ("tokens", lambda o: changed(o, (0, 0), 9), "tokens are not those"),
    ("tokens", lambda o: o[:, :-1].copy(), "tokens have"),
    ("sample_ids", lambda o: changed(o, 1, o[0]), "sample_ids holds a name twice"),
    ("sample_ids", lambda o: changed(o, 1, b"a\tb"), "a tab or a line break"),
    ("sample_ids", lambda o: changed(o, 1, b"a\nb"), "a tab or a line break"),
    ("sample_ids", lambda o: changed(o, 1, b"\xff\xfe"), "sample_ids is not UTF-8"),
    ("sample_ids", lambda o: changed(o, 1, b""), "an empty name"),
    ("tip", lambda o: changed(o, 0, 27), "tip holds 27, wanted -1 to 26"),
    ("tip", lambda o: changed(o, 0, -2), "tip holds -2"),
    ("tip", lambda o: np.where(o == 4, 5, o), "a tip for two ASVs"),
    ("tree_tips", lambda o: changed(o, 1, o[0]), "tree_tips holds a name twice"),
    ("tree_start", lambda o: changed(o, 4, -1), "branch 5 has no tips"),
    ("tree_start", lambda o: changed(o, 4, 2**31 - 1), "branch 5 has no tips"),
    ("tree_stop", lambda o: changed(o, 4, 99), "branch 5 has no tips"),
    ("tree_stop", lambda o: changed(changed(o, 4, 6), 5, 8), "branches cross"),
    ("tree_length", lambda o: changed(o, 2, -1.), "no length"),
    ("tree_length", lambda o: changed(o, 2, np.inf), "no length"),
    ("tree_length", lambda o: changed(o, 2, np.nan), "no length")]


@pytest.mark.parametrize("name,change,message", WRONG)
@pytest.mark.parametrize("check", [None, False])
def test_an_array_that_makes_no_sense_is_refused(tmp_path, name, change, message, check):
    arrays = study_arrays(made())
    arrays[name] = change(arrays[name])
    with pytest.raises(AamError, match=message): open_store(put(tmp_path/"store", arrays), check)


def test_columns_first_is_another_array(tmp_path):
    arrays = study_arrays(made())
    np.save(put(tmp_path/"store", arrays)/"tokens.npy", np.asfortranarray(arrays["tokens"]))
    with pytest.raises(AamError, match="tokens"): open_store(tmp_path/"store", check=False)


def metadata_of(folder, arrays): return open_store(put(folder, arrays)).metadata


def test_metadata_of_other_samples_are_refused(tmp_path):
    arrays = study_arrays(made())
    for ids in (["a", "b"], [f"S{i}" for i in range(7)]):
        arrays["metadata"] = another(ids)
        with pytest.raises(AamError, match="not its 7 samples"): metadata_of(tmp_path/"store", arrays)
    for text in (b"\xff\xfe\t", b"sample_id\n", b"sample_id\tage\n#q2:types\tnumeric\nx\ty\tz\n"):
        arrays["metadata"] = np.frombuffer(text, np.uint8)
        with pytest.raises(AamError, match="cannot be read|not its 7"): metadata_of(tmp_path/"store", arrays)


MANIFESTS = [dict(arrays=5), dict(arrays={}), dict(arrays=None), dict(digest="0"*32), dict(notes=3),
             dict(notes=[1])]


@pytest.mark.parametrize("change", MANIFESTS)
def test_a_manifest_of_another_form_is_refused_though_sealed(tmp_path, change):
    path = put(tmp_path/"store", study_arrays(made()))/"manifest.json"
    path.write_text(json.dumps(sealed(json.loads(path.read_text()) | change)))
    with pytest.raises(AamError, match="manifest.json was altered"): open_store(tmp_path/"store")


def test_sound_arrays_pass_whatever_their_size(tmp_path, monkeypatch):
    import aam_nb.batches.sound as page
    for rows in (1, 2, 7, 10**6):
        monkeypatch.setattr(page, "_AT_ONCE", rows)
        monkeypatch.setattr(page.blocks, "__defaults__", (rows,))
        for seed in range(5): check_arrays(study_arrays(made(seed)), "The store")
        open_store(put(tmp_path/f"store{rows}", study_arrays(made(rows))))


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 8)), min_size=1, max_size=6))
def test_branches_cross_where_a_look_at_all_pairs_says_so(pairs):
    start, stop = np.array([(a, min(a + n, 9)) for a, n in pairs]).T
    spans = list(zip(start, stop, strict=True))
    assert _cross(start, stop) == any(a < c < b < d for a, b in spans for c, d in spans)


@given(st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=6), st.booleans())
def test_unsorted_samples_are_found_where_a_loop_finds_them(samples, sort):
    if sort: samples = [sorted(set(o)) for o in samples]
    indptr, asv = np.cumsum([0, *map(len, samples)]), np.array(sum(samples, []), np.int32)
    wrong = [i + 1 for i, o in enumerate(samples) if o != sorted(set(o))]
    found = list(_unsorted(indptr, asv))
    assert found == ([f"the ASVs of sample {wrong[0]:,} do not ascend"] if wrong else [])
    assert len(list(_falls(asv))) <= 1


def test_a_file_cut_short_in_use_is_a_message(tmp_path):
    store = open_store(put(tmp_path/"store", study_arrays(made())))
    store.check_files()
    for name in ("reads.npy", "asv.npy"):
        path = tmp_path/"store"/name
        size = path.stat().st_size
        os.truncate(path, size - 4)
        with pytest.raises(AamError, match=f"{name} was cut short"): store.check_files()
        os.truncate(path, size)
    store.check_files()


def test_batches_ask_whether_the_files_are_whole(tmp_path):
    store = build_store(made(), tmp_path/"store")
    view = View(identity=8, metrics=("unweighted",), mask=.2)
    samples = SampleDataset(store, np.flatnonzero(store.depths))
    sources = [SampleBatches(samples, view, batch=3, steps=2), PlainBatches(samples, view, batch=3),
               AsvBatches(store, asvs_in(store, samples.rows), view, batch=6, steps=2)]
    for o in sources: o[0]
    os.truncate(tmp_path/"store/tokens.npy", 130)
    for o in sources:
        with pytest.raises(AamError, match="was cut short"): o[0]
