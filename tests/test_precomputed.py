"Distances made elsewhere: every kind of file against scikit-bio, and damaged and foreign files."
import gzip
import multiprocessing
import pickle
import zipfile

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import random_counts, random_newick
from scipy.stats import spearmanr
from skbio import DistanceMatrix

from aam_nb.batches.build import build_store
from aam_nb.batches.loader import loader
from aam_nb.batches.sample_batches import PlainBatches, SampleBatches
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.view import View
from aam_nb.config import Config
from aam_nb.core import AamError
from aam_nb.data.distance_files import Distances, read_distances
from aam_nb.data.distances import sample_distances
from aam_nb.data.study import make_study
from aam_nb.data.table import read_table
from aam_nb.data.tree import parse_newick, read_tree
from aam_nb.inference.bundle import Bundle, load_bundle, save_bundle
from aam_nb.model.aam import AamModel
from aam_nb.model.passes import fit_constants
from aam_nb.model.heads import distance_head
from aam_nb.registry import metrics
from aam_nb.sections import LossConfig, ModelConfig
from aam_nb.training.losses import distance_loss, sample_losses
from aam_nb.training.metrics import distance_metrics
from aam_nb.types import Batch

KINDS = ["tsv", "txt.gz", "qza", "h5", "chunks.h5", "fixed.h5", "npy", "npz"]


def random_distances(n, seed=0, top=1.):
    "A symmetric matrix with a zero diagonal, and ids that are not in alphabetical order."
    rng = np.random.default_rng(seed)
    out = np.triu(rng.uniform(.01, top, (n, n)), 1)
    return out + out.T, [f"s{i}é" if i == 0 else f"s{i}" for i in rng.permutation(n)]


def qza(path, data, kind="DistanceMatrix", member="distance-matrix.tsv"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("6e4d/metadata.yaml", f"uuid: 6e4d\ntype: {kind}\nformat: any\n")
        z.writestr(f"6e4d/data/{member}", data)
    return path


def write(folder, kind, matrix, ids, name="d"):
    "The same distances as a file of some kind."
    path = folder/f"{name}.{kind}"
    text = folder/"text"
    DistanceMatrix(matrix, ids).write(str(text), format="lsmat")
    if kind == "tsv": text.rename(path)
    if kind == "txt.gz": path.write_bytes(gzip.compress(text.read_bytes(), mtime=0))
    if kind == "qza": qza(path, text.read_bytes())
    if kind == "npz": np.savez_compressed(path, matrix=matrix, ids=ids)
    if kind == "npy":
        np.save(path, matrix.astype(np.float32))
        path.with_suffix(".ids.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    if kind.endswith("h5"):
        with h5py.File(path, "w") as f:
            more = dict(chunks=(3, 2), compression="gzip", shuffle=True) if kind == "chunks.h5" else {}
            f.create_dataset("matrix:0" if kind == "chunks.h5" else "matrix",
                             data=matrix.astype(np.float32 if more else np.float64), **more)
            f.create_dataset("order", data=[o.encode() for o in ids],
                             dtype="S9" if kind == "fixed.h5" else h5py.string_dtype())
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_as_scikit_bio(tmp_path, kind):
    matrix, ids = random_distances(12)
    path = write(tmp_path, kind, matrix, ids)
    found = read_distances(path)
    assert list(found.ids) == ids and len(found) == 12 and found.bounded
    np.testing.assert_allclose(found.rows(np.arange(12)), matrix, rtol=1e-6)
    some = [ids[7], ids[0], ids[3]]
    study = found.align(some)
    want = DistanceMatrix(matrix, ids).filter(some).data
    assert list(study.ids) == some and study.between(some[::-1]).dtype == np.float32
    np.testing.assert_allclose(study.rows([0, 1, 2]), want, rtol=1e-6)
    np.testing.assert_allclose(found.between(some), want, rtol=1e-6)
    # A step may hold a sample twice
    assert study.rows([1, 1]).tolist() == [[0, 0], [0, 0]] and study.rows([]).shape == (0, 0)
    again = pickle.loads(pickle.dumps(study))
    assert list(again.ids) == some and (again.rows([2, 0]) == study.rows([2, 0])).all()


@pytest.mark.parametrize("how, kind", [("fork", "h5"), ("fork", "chunks.h5"), ("fork", "tsv"),
                                       ("fork", "npy"), ("spawn", "chunks.h5")])
def test_processes_read_the_same(tmp_path, kind, how):
    matrix, ids = random_distances(9)
    found = read_distances(write(tmp_path, kind, matrix, ids))
    here = found.rows(np.arange(9))
    with multiprocessing.get_context(how).Pool(2) as pool:
        for out in pool.map(found.rows, [np.arange(9)]*4): assert (out == here).all()


def test_what_scikit_bio_reads(tmp_path):
    "Its binary format, and text with comments, blank lines, a byte order mark and Windows line ends."
    matrix, ids = random_distances(6)
    both = DistanceMatrix(matrix, ids)
    both.write(str(tmp_path/"b.h5"), format="binary_dm")
    both.write(str(tmp_path/"t.tsv"), format="lsmat")
    text = (tmp_path/"t.tsv").read_bytes()
    (tmp_path/"w.tsv").write_bytes(b"\xef\xbb\xbf# made by hand\r\n\r\n" + text.replace(b"\n", b"\r\n")
                                   + b"\r\n")
    (tmp_path/"bom.tsv").write_bytes(b"\xef\xbb\xbf" + text)
    for name in ("b.h5", "w.tsv", "bom.tsv"):
        np.testing.assert_allclose(read_distances(tmp_path/name).between(ids), matrix, rtol=1e-6)


def test_a_real_file(data_dir):
    path = data_dir/"tiny_ecam60"/"unweighted_unifrac.tsv"
    found, theirs = read_distances(path), DistanceMatrix.read(str(path))
    assert tuple(found.ids) == theirs.ids and found.bounded
    np.testing.assert_allclose(found.rows(np.arange(60)), theirs.data, rtol=1e-6)


def test_only_what_is_asked_for_is_read(tmp_path):
    "A number that cannot be read stands in a row that nobody asks for."
    matrix, ids = random_distances(5)
    path = write(tmp_path, "tsv", matrix, ids)
    lines = path.read_text().splitlines()
    lines[4] = lines[4].replace("\t0.", "\tx.", 1)
    path.write_text("\n".join(lines))
    found = read_distances(path)
    found.rows([0, 1, 2])
    with pytest.raises(AamError, match="d.tsv.*row of 's"): found.rows([0, 3])


def test_bounded(tmp_path):
    matrix, ids = random_distances(5, top=3.)
    found = read_distances(write(tmp_path, "npy", matrix, ids))
    assert not found.bounded and found.rows([0, 1]).max() > 0
    low = np.argsort(matrix.max(1))[:1]
    assert found.align([ids[low[0]]]).bounded # Of the samples that are used
    rounded = np.where(matrix > 0, 1 + 1e-8, 0)
    assert read_distances(write(tmp_path, "tsv", rounded, ids)).bounded


@pytest.mark.parametrize("kind", ["h5", "npy", "npz", "tsv"])
@pytest.mark.parametrize("i, j, value, says", [
    (0, 2, np.nan, "from 's.*' to 's.*' is nan"), (0, 2, np.inf, "is inf"), (0, 2, 1e39, "is inf"),
    (0, 2, -.5, "is -0.5; wanted a number"),
    (1, 1, .5, "to itself is 0.5"), (0, 2, .9999, "but from")])
def test_what_is_no_distance(tmp_path, kind, i, j, value, says):
    matrix, ids = random_distances(4)
    good = write(tmp_path, kind, matrix, ids)
    matrix[i, j] = value
    if kind == "h5":
        with h5py.File(good, "r+") as f: f["matrix"][...] = matrix
    if kind == "npy": np.save(good, matrix)
    if kind == "npz": np.savez(good, matrix=matrix, ids=ids)
    if kind == "tsv":
        good.write_text("\n".join(["\t" + "\t".join(ids),
                                   *(f"{o}\t" + "\t".join(map(str, r)) for o, r in zip(ids, matrix))]))
    with pytest.raises(AamError, match=f"d.{kind}.*{says}"): read_distances(good).rows(np.arange(4))


def test_small_rounding_is_no_error(tmp_path):
    matrix, ids = random_distances(4)
    matrix[0, 1] *= 1 + 1e-6
    matrix[2, 2], matrix[3, 3] = -1e-9, 1e-9
    np.savez(tmp_path/"d.npz", matrix=matrix, ids=ids)
    assert (read_distances(tmp_path/"d.npz").rows(np.arange(4)) >= 0).all()


def test_missing_samples_are_named(tmp_path):
    matrix, ids = random_distances(5)
    found = read_distances(write(tmp_path, "h5", matrix, ids))
    with pytest.raises(AamError, match=r"d.h5 has no distances for 2 of 3 samples \(first: 'a', 'b'\)"):
        found.align(["a", ids[0], "b"])
    with pytest.raises(AamError, match="no distances for 1 of 1"): found.between(["a"])


TEXTS = {
    "empty.tsv": ("holds nothing at all", b""), "a.tsv": ("not begin with a line of ids", b"a,b\n1,2\n"),
    "b.tsv": ("2 columns and 1 rows", b"\ta\tb\na\t0\t1\n"),
    "c.tsv": ("not begin with a line of ids", b"# x\n\n"),
    "d.tsv": ("the row of 'b' is where the row of 'a'", b"\ta\tb\nb\t0\t1\na\t1\t0\n"),
    "e.tsv": ("row of 'b' has 1 numbers for 2", b"\ta\tb\na\t0\t1\nb\t1\n"),
    "f.tsv": (r"occur more than once \('a'\)", b"\ta\ta\na\t0\t1\na\t1\t0\n"),
    "g.tsv": ("number 2 has no id", b"\ta\t\na\t0\t1\n\t1\t0\n"), "h.tsv": ("JSON", b"{}"),
    "i.tsv": ("Newick", b"(a,b);"),
    "j.tsv": ("UTF-16", "\ta".encode("utf-16")), "k.bin": ("an unknown kind", b"\1\0\2"),
    "m.tsv": ("utf-8", b"\t\xff\n\xff\t0\n"),
    "l.tsv": ("named '.tsv' but holds HDF5", b"\x89HDF\r\n\x1a\n"),
    "e.h5": ("named '.h5' but holds plain text", b"text"),
    "f.h5": ("cannot be read", b"\x89HDF\r\n\x1a\n"), "e.npz": ("not begin with a line of ids", b"text"),
    "b.npy": ("cannot be read", b"\x93NUMPY\1\0")}


@pytest.mark.parametrize("name", TEXTS)
def test_foreign_bytes(tmp_path, name):
    says, content = TEXTS[name]
    (tmp_path/name).write_bytes(content)
    (tmp_path/"b.ids.txt").write_text("a\n")
    with pytest.raises(AamError, match=f"{name}.*{says}"): read_distances(tmp_path/name)


ZEROS, OBJECTS = np.zeros((3, 3)), np.array(["a", None, "b"], object)
ARRAYS = [
    ("h5", "no dataset 'order'", dict(matrix=ZEROS)), ("h5", "no dataset 'matrix'", dict(order=[b"a"])),
    ("h5", "it has 2 ids, and an array", dict(order=[b"a", b"b"], matrix=ZEROS)),
    ("h5", "it has 3 ids, and an array", dict(order=[b"a", b"b", b"c"], matrix=[[b"x"]*3]*3)),
    ("npz", "its arrays are 'x'", dict(x=ZEROS)), ("npz", "ids have the shape",
                                                   dict(matrix=ZEROS, ids=ZEROS)),
    ("npz", "its arrays hold objects", dict(matrix=ZEROS, ids=OBJECTS)),
    ("npz", "it has 2 ids, and an array", dict(matrix=ZEROS, ids=["a", "b"])),
    ("npy", r"there is no file .*a.ids.txt", dict(matrix=ZEROS)),
    ("npy", "it has 2 ids, and an array", dict(matrix=ZEROS, ids="x\ny\n")),
    ("npy", "cannot be read", dict(matrix=OBJECTS, ids="x\ny\n"))]


@pytest.mark.parametrize("kind, says, content", ARRAYS)
def test_foreign_arrays(tmp_path, kind, says, content):
    path = tmp_path/f"a.{kind}"
    if kind == "npz": np.savez(path, **content)
    if kind == "npy":
        np.save(path, content["matrix"], allow_pickle=True)
        if "ids" in content: path.with_suffix(".ids.txt").write_text(content["ids"])
    if kind == "h5":
        with h5py.File(path, "w") as f:
            for k, v in content.items(): f[k] = v
    with pytest.raises(AamError, match=f"a.{kind}.*{says}"): read_distances(path)


def test_foreign_archives_and_places(tmp_path):
    qza(tmp_path/"t.qza", "x", "FeatureTable[Frequency]", "feature-table.biom")
    (tmp_path/"dir.tsv").mkdir()
    with zipfile.ZipFile(tmp_path/"z.qza", "w") as z: z.writestr("a", "b")
    for name, says in (("t.qza", r"holds FeatureTable\[Frequency\]"), ("z.qza", "not a QIIME 2 artefact"),
                       ("dir.tsv", "is a folder"), ("no.tsv", "")):
        with pytest.raises(AamError, match=f"{name}.*{says}"): read_distances(tmp_path/name)


def test_links_and_virtual_data_are_refused(tmp_path):
    matrix, ids = random_distances(3)
    write(tmp_path, "h5", matrix, ids, name="other")
    with h5py.File(tmp_path/"a.h5", "w") as f:
        f["matrix"] = h5py.ExternalLink("other.h5", "matrix")
        f["order"] = ids
    with h5py.File(tmp_path/"b.h5", "w") as f:
        f["order"] = ids
        layout = h5py.VirtualLayout((3, 3), float)
        layout[:] = h5py.VirtualSource(tmp_path/"other.h5", "matrix", (3, 3))
        f.create_virtual_dataset("matrix", layout)
    with h5py.File(tmp_path/"c.h5", "w") as f:
        f["order"] = ids
        f.create_dataset("matrix", (3, 3), float, external=[(str(tmp_path/"raw"), 0, 72)])
    for name in "abc":
        with pytest.raises(AamError, match=f"{name}.h5.*points outside the file"):
            read_distances(tmp_path/f"{name}.h5")


def test_a_claim_larger_than_the_file(tmp_path):
    with h5py.File(tmp_path/"a.h5", "w") as f:
        f["order"] = [f"s{i}" for i in range(20_000)]
        f.create_dataset("matrix", (20_000, 20_000), "f8", chunks=(1, 20_000), compression="gzip")
    with pytest.raises(AamError, match="a.h5.*claims 3,200,000,000 bytes"): read_distances(tmp_path/"a.h5")
    with zipfile.ZipFile(tmp_path/"b.npz", "w", zipfile.ZIP_DEFLATED) as z:
        with z.open("matrix.npy", "w") as f:
            for _ in range(400): f.write(bytes(2**20))
    with pytest.raises(AamError, match="b.npz grows to 419,430,400 bytes"): read_distances(tmp_path/"b.npz")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    matrix, ids = random_distances(6, 3)
    return {o: write(folder, o, matrix, ids).read_bytes() for o in KINDS}, ids


@settings(max_examples=60)
@given(hits=st.lists(st.tuples(st.floats(0, .999999), st.integers(0, 255), st.booleans()), max_size=6),
       end=st.one_of(st.just(1.), st.floats(0, 1)))
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_refused_or_harmless(seeds, tmp_path_factory, kind, hits, end):
    data, ids = seeds
    out = bytearray(data[kind])
    full = [i for i, o in enumerate(out) if o]
    for where, value, anywhere in hits:
        out[int(where*len(out)) if anywhere else full[int(where*len(full))]] = value
    folder = tmp_path_factory.getbasetemp()
    path = folder/f"damaged.{kind}"
    path.unlink(missing_ok=True)
    path.write_bytes(out[:int(end*len(out))]) # A new file, or HDF5 would remember the old one
    path.with_suffix(".ids.txt").write_text("\n".join(ids), encoding="utf-8")
    try:
        found = read_distances(path)
        rows = found.rows(np.arange(len(found)))
        assert found.bounded in (True, False)
    except AamError as e:
        assert "damaged" in str(e)
        return
    assert np.isfinite(rows).all() and (rows >= 0).all()
    assert (np.diag(rows) <= 1e-6).all() # As much as rounding may do to a 0
    assert len(set(found.ids)) == len(found)
    assert isinstance(found, Distances)


def test_batches_of_a_real_study_have_the_distances_of_its_file(data_dir):
    "The file of `tiny_ecam60` holds unweighted UniFrac of all reads, as do batches that compute it."
    folder = data_dir/"tiny_ecam60"
    study = make_study(read_table(folder/"table.biom"), tree=read_tree(folder/"tree.nwk"))
    store = build_store(study)
    given = read_distances(folder/"unweighted_unifrac.tsv").align(store.sample_ids)
    data = SampleDataset(store)
    view = View(metrics=("precomputed",), distances=given)
    made = PlainBatches(data, view, batch=32)
    computed = PlainBatches(data, View(metrics=("unweighted",)), batch=32)
    for i in range(len(made)):
        torch.testing.assert_close(made[i].distance, computed[i].distance, atol=1e-6, rtol=0)
    train = SampleBatches(data, view, batch=16, steps=4)
    for a, b in zip(loader(train), loader(train, workers=2), strict=True):
        assert torch.equal(a.distance, b.distance)
        assert torch.equal(a.distance[0], torch.from_numpy(given.rows(a.index.numpy())))


# What the model does with them.

def model_on(metric, distance, seed=0):
    "A model, and a batch of samples of one ASV or two with the given distances."
    torch.manual_seed(seed)
    n = len(distance)
    rng = np.random.default_rng(seed)
    config = ModelConfig(patch=3, width=16, identity=0, sample_width=16, head_width=8, layers=1, heads=2)
    tokens = torch.from_numpy(rng.integers(1, 5, (n, 12)).astype(np.uint8))
    asv = torch.tensor([o for i in range(n) for o in (i, (i+1) % n)])
    offsets = torch.arange(0, 2*n + 1, 2)
    batch = Batch(tokens=tokens, rows=torch.arange(n), identity=torch.zeros(n, 0), asv=asv,
                  counts=torch.ones(2*n)*5, offsets=offsets,
                  index=torch.arange(n), target=torch.zeros(n, 0), distance=torch.from_numpy(distance)[None])
    return fit_constants(AamModel(config, 12, metrics=(metric,)), [batch]), batch


@pytest.mark.parametrize("top", [1., 60.])
def test_the_model_learns_them_and_its_bundle_remembers_which(tmp_path, top):
    "Points, every third pair not known: loss falls, known pairs are ranked, a bundle says the same."
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(12, 2))
    matrix = np.linalg.norm(points[:, None] - points[None], axis=2)*top/1.5
    ids = [f"s{i}" for i in range(12)]
    given = read_distances(write(tmp_path, "npz", matrix, ids))
    metric = "precomputed" if given.bounded else "precomputed_unbounded"
    assert (metric == "precomputed") == (top == 1)
    distance = given.align(ids).rows(np.arange(12))
    hidden = (np.add.outer(np.arange(12), np.arange(12)) % 3 == 0)
    distance[hidden] = np.nan
    model, batch = model_on(metric, distance)
    optim = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(150):
        terms = sample_losses(model(batch), batch, LossConfig(distance=1.), metrics=model.metrics)
        losses.append(float(terms.total.detach()))
        assert np.isfinite(losses[-1])
        optim.zero_grad()
        terms.total.backward()
        optim.step()
    out = model.eval()(batch).distance[0].detach().numpy()
    assert losses[-1] < losses[0]/5 and distance_metrics(distance, out)["spearman"] > .9
    assert (out < 1).all() or top > 1
    saved = load_bundle(save_bundle(tmp_path/"bundle", Bundle(model=model, config=Config(model=model.config),
                                                              targets=None, known=np.zeros(0, np.int64))))
    assert saved.model.metrics == (metric,) and (saved.model(batch).distance[0].detach().numpy() == out).all()
    assert saved.model(batch).unit == model(batch).unit


def test_pairs_of_different_studies_do_not_count():
    "Loss, gradient and metrics are of pairs within each study; a batch without known pairs counts nothing."
    matrix = random_distances(8)[0].astype(np.float32)
    apart = np.add.outer([0]*5 + [1]*3, -np.array([0]*5 + [1]*3)) != 0
    blocks = np.where(apart, np.nan, matrix).astype(np.float32)
    model, batch = model_on("precomputed", blocks)
    predicted = model(batch).distance[0]
    upper = np.triu(~apart, 1)
    want = ((predicted.detach().numpy() - matrix)[upper]**2).mean()
    assert float(distance_loss(predicted.detach(), batch.distance[0]).mean) == pytest.approx(float(want),
                                                                                             rel=1e-5)
    said = distance_metrics(blocks, predicted.detach().numpy())
    assert said["spearman"] == pytest.approx(spearmanr(matrix[upper], predicted.detach().numpy()[upper])[0])
    none = torch.full((8, 8), torch.nan)
    loss = distance_loss(predicted, none).mean
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is None or (p.grad == 0).all() for p in model.parameters())
    # Leaves the scale as it is
    fit_constants(model, [batch.__class__(**{**vars(batch), "distance": none[None]})])
    assert torch.equal(model(batch).distance[0], predicted)


@pytest.mark.parametrize("metric,size", [("precomputed_unbounded", 1.), ("precomputed", 1/80)])
def test_the_unit_makes_the_loss_one(metric, size):
    "Whoever gives the mean of all pairs has a loss of 1, in each metric: so none drowns the others."
    matrix = random_distances(8, top=80.)[0].astype(np.float32)*size
    model, batch = model_on(metric, matrix)
    head = model.heads["distance"][metric]
    pairs = np.triu_indices(8, 1)
    assert float(head.unit) == pytest.approx(matrix[pairs].std(), rel=1e-4)
    worth = lambda guess: float(distance_loss(torch.full((8, 8), guess), batch.distance[0], head.unit).mean)
    assert worth(float(matrix[pairs].mean())) == pytest.approx(1., rel=1e-4) and worth(0.) > 1
    without = model_on("precomputed_unbounded", np.zeros((3, 3), np.float32))[0] # No unit
    assert without.heads["distance"]["precomputed_unbounded"].unit == 1
    with pytest.raises(AamError, match="samples 'precompute'.*Did you mean 'precomputed'"):
        model_on("precompute", matrix)


def test_each_distance_has_the_head_that_its_record_asks_for():
    heads = {o: distance_head(o, 8, 4) for o in [*metrics, "precomputed_unbounded"]}
    assert {k for k, o in heads.items() if not o.bounded} == {
        "weighted", "log_weighted", "aitchison", "robust_aitchison", "faith_pd", "precomputed_unbounded"}
    assert [k for k, o in heads.items() if o.squared] == ["braycurtis"]


@pytest.mark.parametrize("metric", [o.name for o in metrics.values() if o.between])
def test_the_model_learns_each_metric(metric):
    "Of random samples: the loss falls and pairs are ranked; bounded metrics stay within their bounds."
    rng = np.random.default_rng(1)
    tree = parse_newick(random_newick(rng, 30))
    counts = random_counts(rng, 14, 30) + np.eye(14, 30, dtype=int)
    distance = sample_distances(counts, metric, tree, np.arange(30)).astype(np.float32)
    model, batch = model_on(metric, distance)
    optim = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(120):
        terms = sample_losses(model(batch), batch, LossConfig(distance=1.), metrics=model.metrics)
        losses.append(float(terms.total.detach()))
        optim.zero_grad()
        terms.total.backward()
        optim.step()
    said = model.eval()(batch).distance[0].detach().numpy()
    assert losses[-1] < losses[0]/2 and distance_metrics(distance, said)["spearman"] > .7
    assert not metrics[metric].bounded or (max(said.max(), distance.max()) <= 1)
