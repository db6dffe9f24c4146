"""Defects of the AAM that this program follows, found by running or reading it, each with a test that would catch it here.

Some cannot occur here as they were, because the part is not there; what took its place is tested:

| defect | here |
|---|---|
| A7, A9, B4, B17, B26: a save that hangs, settings lost behind a wrapper, pairs and metrics of several processes | a run has one process and wraps nothing |
| A10, B22: accumulated steps whose tail is not counted, not clipped and divided by the wrong number | a batch of any size is one step, in little memory |
| B6: a schedule that is stepped twice | the rate is a function of the step, and nothing is stepped |
| B20: an attention kernel that the mask forbids | kernels are no option; PyTorch picks one for the mask it is given (no test) |
| B24: histograms that are logged when they are gone | there are none; the norm of the gradient is taken before the step |
"""
import os
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from aam_nb.batches.build import build_store
from aam_nb.batches.sample_batches import PlainBatches, SampleBatches
from aam_nb.batches.samples import SampleDataset
from aam_nb.batches.view import View
from aam_nb.config import config_from
from aam_nb.core import AamError, draw_key
from aam_nb.data.codec import TargetCodec
from aam_nb.data.covariates import CovariateCodec
from aam_nb.data.distance_files import read_distances
from aam_nb.data.simulate import simulate, write_study
from aam_nb.data.targets import Targets
from aam_nb.data.tokens import MASK
from aam_nb.data.weights import target_weights
from aam_nb.inference.bundle import load_bundle
from aam_nb.inference.predict import decoded, predict_table
from aam_nb.model.aam import AamModel
from aam_nb.model.passes import backward_chunks, embed_chunks
from aam_nb.model.fusion import OutputScale
from aam_nb.model.heads import SampleDistanceHead, linked
from aam_nb.runs.predict import predict_run
from aam_nb.runs.train import train_run
from aam_nb.sections import AugmentConfig, LossConfig, ModelConfig, OptimConfig, RunConfig
from aam_nb.training.loop import fit
from aam_nb.training.losses import count_loss, distance_loss, sample_losses, target_loss
from aam_nb.training.measure import measure_asvs, measure_samples
from aam_nb.training.objectives import AsvObjective, SampleObjective
from aam_nb.training.optim import make_optimizer, rate, set_rate
from aam_nb.training.parallel import check_alone, make_accelerator
from aam_nb.training.track import read_log
from aam_nb.types import AsvBatch, Batch, Column, Covariates, Outputs

NAN = float("nan")
NUMBER, KIND = Column(name="y", task="regression"), Column(name="kind", task="classification", outputs=3)
TOLD = Covariates(chains=(("diet",), ("country", "city")), sizes=(3, 2, 5), numbers=("bmi",))
FUSIONS = ("concat", "add", "gated", "cross", "perceiver")


CPU = make_accelerator(RunConfig(device="cpu"))


def quiet(text): pass


def model_of(columns=(NUMBER,), metrics=(), covariates=None, counts=False, seed=0, **sizes):
    "A small model without dropout, its weights from a seed."
    small = dict(patch=4, width=16, layers=1, heads=2, identity=0, sample_width=16, sample_layers=1, head_width=8, head_dropout=0., latents=4, latent_layers=1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AamModel(ModelConfig(**small | sizes), bases=20, columns=columns, metrics=metrics, covariates=covariates, counts=counts)


def batch_of(lengths=(5, 3, 7, 4, 6, 2), targets=1, told=False, seed=0):
    "Samples of as many ASVs as asked for, out of twelve."
    rng = np.random.default_rng(seed); b = len(lengths)
    asv = np.concatenate([np.sort(rng.permutation(12)[:n]) for n in lengths])
    covariates = dict(category=torch.from_numpy(np.stack([rng.integers(2, o + 2, b) for o in TOLD.sizes], 1)),
                      number=torch.from_numpy(rng.normal(size=(b, 1))).float()) if told else {}
    tokens = torch.from_numpy(np.random.default_rng(7).integers(1, 5, (12, 20)).astype("uint8"))
    return Batch(tokens=tokens, rows=torch.arange(12), identity=torch.zeros(12, 0), asv=torch.from_numpy(asv),
                 counts=torch.from_numpy(rng.integers(1, 300, len(asv))).float(), offsets=torch.from_numpy(np.r_[0, np.cumsum(lengths)]),
                 index=torch.arange(b), target=torch.from_numpy(rng.normal(size=(b, targets))).float(), key=draw_key("defects", seed), **covariates)


def taken(batch, order):
    "Samples of a batch in another order, or only some of them."
    pairs = torch.cat([torch.arange(batch.offsets[i], batch.offsets[i + 1]) for i in order]); rows = torch.as_tensor(order)
    held = {k: getattr(batch, k)[rows] for k in ("index", "target", "category", "number", "weight") if getattr(batch, k) is not None}
    lengths = batch.offsets.diff()[rows]
    return replace(batch, asv=batch.asv[pairs], counts=batch.counts[pairs], offsets=torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]), **held)


def said(model, batch):
    "What a model in evaluation mode says of a batch."
    with torch.no_grad(): return model.eval()(batch)


@pytest.fixture(scope="module")
def store():
    "Samples that are alike in nothing but their tree."
    return build_store(simulate(samples=20, asvs=30, groups=10, length=40, seed=3))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "One run with much of what there is: two targets, quantiles, covariates, two distances, hidden reads, a common depth."
    folder = tmp_path_factory.mktemp("run"); study = simulate(samples=48, asvs=40, groups=12, length=40, seed=8); rng = np.random.default_rng(0)
    diet = rng.choice(["meat", "plants"], 48).astype(object); diet[:6] = np.nan
    write_study(replace(study, metadata=study.metadata.assign(diet=diet, bmi=rng.normal(25, 4, 48).round(1))), folder)
    config = config_from({"data": dict(table=str(folder/"table.biom"), metadata=str(folder/"metadata.tsv"), tree=str(folder/"tree.nwk"), target="age, site",
                                       covariates="diet, bmi", groups="subject", depth=1000, test=0., valid=.4),
                          "model": dict(width=16, layers=1, sample_width=16, head_width=8, identity=16, fusion="gated"),
                          "target": dict(loss="quantile", bounds="0:", transform="log1p_zscore"),
                          "loss": dict(metric="faith_pd, unweighted", distance=.5, counts=.5), "pretrain_asv": dict(steps=4, batch=24),
                          "optim": dict(steps=12, batch=8, every=4), "run": dict(out=str(folder/"run"), threads=1)})
    bundle = shutil.move(train_run(config, say=quiet), folder/"bundle")
    truth = pd.read_csv(folder/"metadata.tsv", sep="\t", index_col=0, comment="#", dtype={"sample_id": str})
    return dict(folder=folder, bundle=bundle, truth=truth, told=pd.read_csv(folder/"run/predictions.tsv", sep="\t", index_col=0, dtype={"sample_id": str}))


def again(run, tmp_path, **how):
    "Predict with the moved bundle."
    return predict_run(run["bundle"], run["folder"]/"table.biom", tmp_path/"new.tsv", metadata=run["folder"]/"metadata.tsv", say=quiet, **how).rows


# ---- A: what could not be done at all

def test_A1_predict_reads_what_train_wrote(run, tmp_path):
    told = run["told"]; new = again(run, tmp_path).loc[told.index]
    numbers = [o for o in new if o in told and new[o].dtype.kind == "f"]
    assert {"age:prediction", "age:q0.05", "age:q0.5", "age:q0.95"} <= set(numbers) and sum(o.startswith("site:probability_") for o in numbers) == 3
    np.testing.assert_allclose(new[numbers].to_numpy(float), told[numbers].to_numpy(float), rtol=1e-5, atol=1e-5)
    assert (new["site:label"] == told["site:label"]).all() and told["age:prediction"].std() > 0


def test_A2_predictions_are_in_the_units_of_the_metadata(run):
    bundle, told = load_bundle(run["bundle"]), run["told"]; codec = bundle.targets.codecs[0]; age = run["truth"].age.astype(float)
    assert bundle.config.data.depth == 1000 and (codec.transform, codec.levels) == ("log1p_zscore", (.05, .5, .95))
    assert (told["age:prediction"] >= 0).all() and age.median()/3 < told["age:prediction"].median() < 3*age.median()  # encoded, it would lie about 0
    outputs = np.array([[-1., 0., 1.]]); wanted = np.expm1(codec.mean + codec.sd*outputs[0])      # by hand: the inverse of log1p and of the z-score
    frame = decoded(bundle.targets, np.concatenate([outputs, [[0., 0., 0.]]], 1), np.array(["S"]))
    np.testing.assert_allclose(frame[["age:q0.05", "age:q0.5", "age:q0.95"]].to_numpy()[0], np.maximum(wanted, 0), rtol=1e-6)


def test_A3_classes_are_text_and_come_back_as_text(run):
    told = run["told"]; columns = [f"site:probability_{o}" for o in sorted(run["truth"].site.unique())]
    np.testing.assert_allclose(told[columns].sum(axis=1), 1, atol=1e-6)
    assert (told["site:label"] == [columns[i].partition("_")[2] for i in told[columns].to_numpy().argmax(1)]).all()


def test_A4_hidden_reads_are_learned_validated_and_left_alone_by_predict(run):
    records = [o for o in read_log(run["folder"]/"run/metrics.jsonl") if o["stage"].endswith("target")]
    assert records and all(np.isfinite(o["counts"]) for o in records) and all(np.isfinite(o["valid_loss"]) for o in records)
    batch = batch_of(); batch = replace(batch, hidden=torch.arange(len(batch.asv)) % 3 == 0); model = model_of(counts=True)
    got = measure_samples(SampleObjective(model, LossConfig(counts=1.)), [batch])
    assert np.isfinite(got["counts"]) and got["loss"] == pytest.approx(got["counts"] + got["target"])
    assert torch.equal(said(model, batch).target, said(model, replace(batch, hidden=None)).target)  # only the guess is made without them


def test_A5_a_target_is_learned_beside_faith_pd(run):
    records = [o for o in read_log(run["folder"]/"run/metrics.jsonl") if o["stage"].endswith("target")]
    assert all(np.isfinite([o["distance:faith_pd"], o["distance:unweighted"], o["target:age"], o["target:site"]]).all() for o in records)


def test_A6_fewer_samples_than_a_batch_are_a_batch(store):
    few = SampleDataset(store, np.arange(3), np.arange(20.))
    assert [o.size for o in PlainBatches(few, batch=64)] == [3]
    assert [SampleBatches(few, batch=64, steps=4)[i].size for i in range(4)] == [3]*4
    found = measure_samples(SampleObjective(model_of(), LossConfig()), [batch_of((3,))])         # and one sample is enough for a loss
    assert np.isfinite(found["loss"])


def test_A7_A9_B4_B17_B26_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for start in (check_alone, lambda: make_accelerator(RunConfig())):
        with pytest.raises(AamError, match="2 processes"): start()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_A8_validation_sees_the_covariates(fusion):
    "Also right after training, in the very loop that trained, and through `fit`."
    model = model_of(covariates=TOLD, fusion=fusion); batch = batch_of(told=True); objective = SampleObjective(model, LossConfig())
    look = lambda b: measure_samples(objective, [b])["loss"]
    fit(objective, [batch]*5, OptimConfig(steps=5, lr=1e-2, every=5), CPU, lambda: dict(loss=look(batch)))
    other = replace(batch, category=torch.roll(batch.category, 1, 0), number=-batch.number)
    assert look(batch) != pytest.approx(look(other), rel=1e-6)
    want = float(F.mse_loss(said(model, batch).target, batch.target))
    assert look(batch) == pytest.approx(want, rel=1e-5)


def test_A9_pretraining_has_figures_of_its_distances():
    batch = batch_of(); d = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(0)); d = (d + d.mT)/2*(1 - torch.eye(6))
    names = ("unweighted", "aitchison")
    found = measure_samples(SampleObjective(model_of(columns=(), metrics=names), LossConfig(distance=1.)), [replace(batch, distance=d)])
    assert {f"{a}_{b}" for a in names for b in ("spearman", "stress", "mantel")} <= set(found)


def test_A10_B22_every_step_is_whole():
    "Any number of samples is a step: the encoder's gradient in chunks equals that of one pass, whatever the last chunk holds."
    batch, want = batch_of(), None
    for chunk in (12, 5, 11, 1):
        model = model_of(); SampleObjective(model, LossConfig(), chunk=chunk).train_step(batch)
        got = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}; want = want or got
        for n in want: torch.testing.assert_close(got[n], want[n], atol=1e-6, rtol=1e-4)
    assert "encoder.stem.weight" in want


def test_A11_a_matrix_that_lacks_a_sample_names_it(tmp_path):
    ids = ["a", "b", "c"]; frame = pd.DataFrame(1. - np.eye(3), index=ids, columns=ids)
    frame.to_csv(tmp_path/"d.tsv", sep="\t")
    found = read_distances(tmp_path/"d.tsv")
    with pytest.raises(AamError, match="no distances of 1 of 4 samples .*'lost'"): found.align(["a", "b", "c", "lost"])
    np.testing.assert_array_equal(found.align(["c", "a"]).rows([0, 1]), 1. - np.eye(2))           # one it has too many is no harm


def test_A12_each_column_has_its_own_outputs_loss_and_gradient():
    metadata = pd.DataFrame({"ph": [4., 5, 6, 7], "depth": [1., 9, 2, 30], "kind": list("abab")})
    config = config_from({"data": dict(target="ph, depth, kind"), "target": dict(loss="mse, depth=quantile", transform="zscore, depth=log1p_zscore")})
    columns = Targets.fit(metadata, config).columns
    assert [(o.name, o.task, o.outputs, o.loss) for o in columns] == [("ph", "regression", 1, "mse"), ("depth", "regression", 3, "quantile"),
                                                                       ("kind", "classification", 2, "mse")]
    outputs = torch.randn(4, 6, requires_grad=True, generator=torch.Generator().manual_seed(0))
    target = torch.tensor(Targets.fit(metadata, config).encode(metadata))
    for name, own in (("ph", [0]), ("depth", [1, 2, 3]), ("kind", [4, 5])):
        grad, = torch.autograd.grad(target_loss(outputs, target, columns)[name].mean, outputs, retain_graph=True)
        assert grad.abs().sum(0).nonzero().flatten().tolist() == own


# ---- B: what gave wrong numbers

def test_B1_hidden_bases_are_judged_by_the_rule_that_trains_them():
    model = model_of(); batch = batch_of(); masked = batch.tokens.clone(); masked[:, 4:8] = MASK
    pairs = AsvBatch(tokens=batch.tokens, masked=masked, rows=batch.rows, distance=torch.cdist(batch.tokens.float(), batch.tokens.float()))
    for objective, one in ((AsvObjective(model, LossConfig()), pairs), (SampleObjective(model, LossConfig()), replace(batch, masked=masked))):
        want = objective.train_step(one); got = (measure_asvs if one is pairs else measure_samples)(objective, [one])
        assert "bases" in want
        for k, v in want.items(): assert got[k] == pytest.approx(float(v), rel=1e-5), k
    seen = replace(pairs, masked=torch.where(torch.arange(20) < 12, batch.tokens, masked), tokens=torch.where(torch.arange(20) < 12, 1, batch.tokens))
    assert "bases" not in measure_asvs(AsvObjective(model, LossConfig()), [replace(seen, masked=seen.tokens)])   # what is in sight is not asked for


def test_B2_hidden_reads_are_shares_and_their_depth_is_no_matter():
    reads, sample = torch.tensor([400., 100, 500, 7, 3]), torch.tensor([0, 0, 0, 1, 1])
    assert float(count_loss(reads.log() + sample, reads, sample).mean) == pytest.approx(0, abs=1e-6)   # the right shares cost nothing, at any depth
    logits = torch.randn(5, generator=torch.Generator().manual_seed(0))
    found = [float(count_loss(logits, k*reads, sample).mean) for k in (1, 1000)]
    assert found[0] == pytest.approx(found[1], rel=1e-5) and 0 < found[0] < 5


@pytest.mark.parametrize("width", [16, 768])
@pytest.mark.parametrize("bounded", [True, False])
def test_B3_predicted_distances_begin_at_the_observed_and_can_move(width, bounded):
    torch.manual_seed(0); head = SampleDistanceHead(width, width, bounded); x = torch.randn(24, width)*width**.5
    observed = torch.rand(24, 24)*(.3 if bounded else 300) + (.5 if bounded else 10); off = ~torch.eye(24, dtype=torch.bool)
    with torch.no_grad(): head.initialise(head.apart(x), observed.masked_fill(~off, 0))
    said = head(x).detach()[off]; assert float(said.median()) == pytest.approx(float(observed[off].median()), rel=.1)
    assert not bounded or float(said.max()) < .99                                                 # no saturated link
    near = torch.cat([x, x[:1] + 1e-4, x[:1]]).requires_grad_(); d = head(near)
    distance_loss(d, torch.full((26, 26), .5), head.unit).mean.backward()                              # alike to the last digit, and still finite
    assert near.grad.isfinite().all() and float(near.grad[24].norm()) > 0


def test_B4_B18_processes_share_a_batch_and_keep_all_pairs(store):
    view = View(seed=1, metrics=("unweighted", "aitchison"))
    source = lambda **k: SampleBatches(SampleDataset(store), view, batch=8, steps=3, **k)
    whole, parts = source()[1], [source(rank=r, world=3)[1] for r in range(3)]
    assert [o.size for o in parts] == [2, 3, 3] and torch.equal(torch.cat([o.index for o in parts]), whole.index)
    torch.testing.assert_close(torch.cat([o.distance for o in parts], 1), whole.distance)
    assert whole.distance.shape == (2, 8, 8) and not whole.distance.isnan().any()


def test_B5_B6_the_rate_is_a_function_of_the_step():
    for steps, warmup in ((1, 1.), (7, 1.), (200, .05), (200, 0.), (3, .99)):
        c = OptimConfig(steps=steps, warmup=warmup, lr=.1); rates = [rate(s, c) for s in range(steps + 50)]; top = rates.index(max(rates))
        assert max(rates) == 1 and 0 < rates[0] <= 1 and rates[steps:] == [0.]*50
        assert rates[:top + 1] == sorted(rates[:top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
        assert not round(warmup*steps) or rates[0] == pytest.approx(1/round(warmup*steps))         # the first step is a small one
        opt = make_optimizer(model_of().named_parameters(), c)
        assert [set_rate(opt, s, c) for s in (0, 0, steps//2)] == [.1*rate(s, c) for s in (0, 0, steps//2)]


@pytest.mark.parametrize("covariates", [TOLD, Covariates(chains=(("diet",),), sizes=(3,))], ids=["several", "one"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_B7_every_part_of_a_fusion_learns(fusion, covariates):
    "Attention over a single key would give its queries and keys no gradient at all, also where there is one covariate."
    model = model_of(covariates=covariates, fusion=fusion).train(); batch = batch_of(told=True); rng = torch.Generator().manual_seed(0)
    if covariates is TOLD: batch.number[2] = NAN
    else: batch = replace(batch, category=batch.category[:, :1], number=None)
    with torch.no_grad():
        for p in model.fusion.parameters(): p.add_(.05*torch.randn(p.shape, generator=rng))       # away from exact zeros
    sample_losses(model(batch), batch, LossConfig(), model.columns).total.backward()
    still = [n for n, p in model.fusion.named_parameters() if p.grad is None or not float(p.grad.norm()) > 1e-7]
    assert not still and [n for n, _ in model.fusion.named_parameters()]


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("sample", ["pool", "attention", "both"])
def test_B8_a_sample_does_not_feel_the_size_of_its_batch_mates(fusion, sample):
    model = model_of(columns=(NUMBER, KIND), covariates=TOLD, fusion=fusion, sample=sample); batch = batch_of((9, 10, 8, 10), targets=2, told=True)
    whole = said(model, batch).target
    for i in range(4): torch.testing.assert_close(said(model, taken(batch, [i])).target, whole[i:i + 1], atol=1e-5, rtol=1e-5)


def test_B9_a_frozen_encoder_is_still():
    model = model_of(dropout=.5, layers=2).freeze_encoder().train(); batch = batch_of()
    assert model.training and torch.equal(model.encode(batch.tokens), model.encode(batch.tokens))
    SampleObjective(model, LossConfig()).train_step(batch)
    assert not [n for n, p in model.named_parameters() if n.startswith("encoder.") and p.grad is not None]


@pytest.mark.parametrize("fusion", ["concat", "perceiver"])
@pytest.mark.parametrize("sample", ["pool", "attention", "both"])
def test_B10_the_order_of_asvs_and_samples_is_no_matter(fusion, sample):
    model = model_of(covariates=TOLD, fusion=fusion, sample=sample); batch = batch_of(told=True); want = said(model, batch).target
    rng = np.random.default_rng(1); rows = torch.from_numpy(rng.permutation(12)); where = rows.argsort()  # another table: its ASVs stand elsewhere
    other = replace(batch, tokens=batch.tokens[rows], rows=batch.rows[rows], asv=where[batch.asv])
    order = torch.cat([batch.offsets[i] + torch.from_numpy(rng.permutation(int(n))) for i, n in enumerate(batch.offsets.diff())])
    other = replace(other, asv=other.asv[order], counts=other.counts[order])
    torch.testing.assert_close(said(model, other).target, want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(said(model, taken(batch, [4, 0, 5, 2, 1, 3])).target, want[[4, 0, 5, 2, 1, 3]], atol=1e-5, rtol=1e-5)


def test_B11_a_category_with_one_sample_has_a_spread():
    y = pd.Series([1., 2, 3, 4, 5, 9, 30], name="y"); by = pd.Series(["a"]*5 + ["alone", "pair"], name="site")
    codec = TargetCodec.fit(y, "regression", transform="zscore_by", by=by)
    more = codec.encode(pd.Series([8.9, 9.1, 40.]), pd.Series(["alone", "alone", "pair"]))
    assert np.isfinite(more).all() and np.abs(more).max() < 50


def test_B12_a_category_is_the_same_from_whole_numbers_and_from_numbers_with_holes():
    whole, holes = pd.Series([1, 2, 1, 2, 1, 2], name="g"), pd.Series([1., 2., 1., 2., NAN, 2.], name="g"); y = pd.Series([1., 20, 3, 22, 2, 24], name="y")
    codec = TargetCodec.fit(y, "regression", transform="zscore_by", by=whole)
    a, b, c = (codec.encode(y, o) for o in (whole, holes, holes.map(lambda v: NAN if np.isnan(v) else f"{v:.0f}")))
    np.testing.assert_array_equal(a[[0, 1, 2, 3, 5]], b[[0, 1, 2, 3, 5]]); np.testing.assert_array_equal(b, c)
    of_all = (y - y.mean())/y.std(ddof=0)
    assert a[1] != pytest.approx(of_all[1]) and b[4] == pytest.approx(of_all[4])                   # its own numbers; those of all where it is missing
    told = CovariateCodec.fit(pd.DataFrame({"g": ["1", "2", "1"]}), "g")
    for o in ([1, 2], [1., 2.], ["1", "2"]): assert told.encode(pd.DataFrame({"g": o}))[0].tolist() == [[2], [3]]
    assert told.encode(pd.DataFrame({"g": [1., NAN, 3.]}))[0].tolist() == [[2], [0], [1]]


def test_B13_a_category_that_scales_a_target_need_not_be_told_to_the_model():
    config = config_from({"data": dict(target="y"), "target": dict(transform="zscore_by", by="site")})
    metadata = pd.DataFrame({"y": [1., 2, 3, 101, 102, 103], "site": list("aaabbb")}, index=list("uvwxyz"))
    targets = Targets.fit(metadata, config); assert not config.data.covariates and targets.needs == ("site",)
    np.testing.assert_allclose(targets.decode(targets.encode(metadata), metadata)["y"], metadata.y, rtol=1e-5)
    np.testing.assert_allclose(decoded(targets, targets.encode(metadata), metadata.index.to_numpy(), metadata).prediction, metadata.y, rtol=1e-5)
    with pytest.raises(AamError, match="site"): targets.decode(targets.encode(metadata))


@pytest.mark.parametrize("transform", ["none", "minmax", "zscore", "log1p_minmax", "log1p_zscore"])
def test_B14_bounds_hold_in_the_unit_of_the_target_and_below_the_mean(transform):
    y = pd.Series([0., 1, 2, 5, 14], name="y"); codec = TargetCodec.fit(y, "regression", transform=transform, bounds=(0., 14.))
    np.testing.assert_allclose(codec.decode(codec.encode(y)), y, atol=1e-5)                        # everything observed can be said, below the mean too
    assert codec.decode(np.array([[-1e3], [1e3]])).tolist() == [0., 14.]


def test_B15_several_passes_are_averaged_as_a_person_would(run, tmp_path):
    one, more = again(run, tmp_path), again(run, tmp_path, overwrite=True, passes=4)
    classes = [o for o in more if "probability_" in o]; values = ["age:q0.05", "age:q0.5", "age:q0.95"]
    assert set(one) <= set(more) and len(classes) == 3 and any(o.endswith("spread") for o in more)
    np.testing.assert_allclose(more[classes].sum(axis=1), 1, atol=1e-6)
    assert (more["site:label"] == [classes[i].partition("_")[2] for i in more[classes].to_numpy().argmax(1)]).all()
    assert (np.diff(more[values].to_numpy()) >= 0).all() and (more[values[0]] < more[values[2]]).any()  # each quantile has its own mean
    two = again(run, tmp_path, overwrite=True, passes=2); gap = (two["age:prediction"] - one["age:prediction"]).abs()
    assert (gap > 0).any() and gap.max() < 10
    np.testing.assert_allclose(gap, two["age:spread"]/2**.5, rtol=1e-6, atol=1e-9)                 # a mean of months, not of encoded numbers


def test_B16_the_median_is_the_level_of_one_half_and_quantiles_do_not_cross():
    for levels in ((.05, .1, .5), (.5, .9, .95), (.2, .5, .6)):
        column = Column(name="y", task="regression", outputs=3, loss="quantile", levels=levels); i = levels.index(.5)
        codec = TargetCodec.fit(pd.Series([1., 2, 3, 4], name="y"), "regression", transform="none", loss="quantile", levels=levels)
        rising = linked(torch.randn(50, 4, generator=torch.Generator().manual_seed(0))*5, (column, NUMBER))[:, :3]
        assert (rising.diff(dim=1) >= 0).all()
        np.testing.assert_allclose(codec.decode(rising.numpy()), rising[:, i], rtol=1e-6)
        frame = decoded(Targets((codec,)), rising.numpy(), np.array([f"S{j}" for j in range(50)]))
        np.testing.assert_allclose(frame[[f"q{o:g}" for o in levels]], rising, rtol=1e-6)           # all are told, not the middle one alone


def test_B19_nothing_that_starts_at_one_is_pulled_to_zero():
    model = model_of(covariates=TOLD, fusion="gated", scale_by=("diet",), metrics=("unweighted",)); c = OptimConfig(weight_decay=1., lr=.1, steps=10, warmup=0.)
    opt = make_optimizer(model.named_parameters(), c); batch = batch_of(told=True)
    scale = next(o for o in model.modules() if isinstance(o, OutputScale)); first = [o.clone() for o in scale.factors(batch.category)]
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for p in model.parameters(): p.grad = torch.zeros_like(p)
    for s in range(5): set_rate(opt, s, c); opt.step()
    for a, b in zip(scale.factors(batch.category), first, strict=True): assert torch.equal(a, b)
    pulled = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert pulled and not [n for n in pulled if before[n].ndim < 2] and "encoder.position" not in pulled


def test_B21_the_second_pass_draws_what_the_first_drew():
    model, batch, seen = model_of(dropout=.5).train(), batch_of(), []
    encode = model.encode
    def noted(tokens): seen.append(encode(tokens)); return seen[-1]
    model.encode = noted
    z = embed_chunks(model, batch.tokens, 5, key=3); first, seen[:] = list(seen), []
    torch.manual_seed(99); backward_chunks(model, batch.tokens, torch.ones_like(z), 5, key=3)
    assert len(seen) == 3 and all(torch.equal(a, b) for a, b in zip(first, seen, strict=True))
    assert not torch.equal(embed_chunks(model, batch.tokens, 5, key=4), z)


def test_B22_what_a_loss_weighs_moves_with_its_batch():
    held = dict(weight=torch.ones(6, 1), distance=torch.zeros(1, 6, 6), hidden=torch.ones(27, dtype=torch.bool), place=torch.arange(12))
    moved = replace(batch_of(told=True), **held).to("meta")
    for k in ("weight", "category", "number", "hidden", "place", "distance", "target"): assert getattr(moved, k).device.type == "meta", k


def test_B23_losses_of_bf16_outputs_are_taken_in_float32():
    batch = replace(batch_of(targets=2), target=torch.tensor([[1., 0], [2, 1], [NAN, 2], [0, NAN], [3, 1], [1, 0]]))
    outputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    far = [sample_losses(Outputs(summary=outputs, target=o), batch, LossConfig(), (NUMBER, KIND)).total for o in (outputs, outputs.bfloat16())]
    assert far[1].dtype == torch.float32 and float(far[1]) == pytest.approx(float(far[0]), rel=.02)
    rounded = sample_losses(Outputs(summary=outputs, target=outputs.bfloat16().float()), batch, LossConfig(), (NUMBER, KIND)).total
    assert float(far[1]) == pytest.approx(float(rounded), rel=1e-6)                                # only the outputs are coarse, not the loss


def test_B24_the_norm_of_the_gradient_is_logged():
    found = fit(SampleObjective(model_of(), LossConfig()), [batch_of(seed=i) for i in range(4)], OptimConfig(steps=4, every=2), CPU)
    assert len(found.history) == 2 and all(o["norm"] > 0 for o in found.history)


def test_B25_each_objective_is_judged_under_its_own_name():
    batch = batch_of(targets=2); batch = replace(batch, target=torch.stack([batch.target[:, 0], torch.arange(6.) % 3], 1), hidden=torch.arange(27) % 3 == 0)
    model = model_of(columns=(NUMBER, KIND), counts=True)
    found = measure_samples(SampleObjective(model, LossConfig(counts=1.)), [batch]); out = said(model, batch)
    assert {"target:y", "target:kind", "counts", "y:r2", "kind:auc"} <= set(found)
    counts = count_loss(out.counts, batch.counts[batch.hidden], batch.sample[batch.hidden]).mean
    want = dict(counts=counts, mae=(out.target[:, 0] - batch.target[:, 0]).abs().mean())
    assert (found["counts"], found["y:mae"]) == pytest.approx([float(o) for o in want.values()], rel=1e-5)


def test_B27_faith_pd_does_not_drown_the_rest():
    "Whatever the unit of a distance, its loss begins near that of any other."
    torch.manual_seed(0); x, observed = torch.randn(32, 16), torch.rand(32, 32); begins = []
    observed = (observed + observed.T)*(1 - torch.eye(32))
    for unit in (1e-3, 1., 1e4):
        torch.manual_seed(1); head = SampleDistanceHead(16, 16, False)
        with torch.no_grad(): head.initialise(head.apart(x), observed*unit)
        begins.append(distance_loss(head(x), observed*unit, head.unit).mean.item())
    assert begins == pytest.approx([begins[0]]*3, rel=1e-3) and .1 < begins[0] < 10


@pytest.mark.parametrize("fusion", FUSIONS)
def test_B28_what_is_missing_or_unknown_is_met_and_learned_in_training(fusion, store):
    rng = np.random.default_rng(0); category = np.stack([rng.integers(2, o + 2, 20) for o in TOLD.sizes], 1)
    number = rng.normal(size=(20, 1)).astype(np.float32)
    dataset = SampleDataset(store, None, rng.normal(size=20), covariates=(category, number))
    source = SampleBatches(dataset, View(augment=AugmentConfig(covariate_dropout=.4)), batch=20, steps=20)
    seen = torch.cat([source[i].category for i in range(20)]); numbers = torch.cat([source[i].number for i in range(20)])
    assert all({0, 1} < set(seen[:, j].tolist()) for j in range(3)) and .1 < float(numbers.isnan().float().mean()) < .7
    batch = batch_of(told=True); learned = []
    for code in (0, 1):
        model = model_of(covariates=TOLD, fusion=fusion, scale_by=("diet",)); diet = torch.full((6, 1), code)
        SampleObjective(model, LossConfig()).train_step(replace(batch, category=torch.cat([diet, batch.category[:, 1:]], 1)))
        tables = [o.weight.grad for o in model.modules() if isinstance(o, torch.nn.Embedding) and o.num_embeddings == 5]
        learned.append([o.abs().sum(1).nonzero().flatten().tolist() for o in tables])
    assert learned == [[[0], [0]], [[1], [1]]]                                 # in the tokens and in the scale of the outputs, each in a row of its own


def test_B29_the_best_weights_are_kept():
    model, scores, kept = model_of(), iter([.5, .1, .9, .7]), []
    def validate():
        kept.append({n: p.detach().clone() for n, p in model.named_parameters()})
        return dict(loss=next(scores))
    found = fit(SampleObjective(model, LossConfig()), [batch_of(seed=i) for i in range(8)], OptimConfig(steps=8, every=2, lr=.01), CPU, validate)
    assert (found.best_step, found.steps) == (4, 8)
    assert all(torch.equal(p, kept[1][n]) for n, p in model.named_parameters()) and not torch.equal(kept[1]["sample.gain"], kept[3]["sample.gain"])


def test_B30_all_pairs_of_any_number_of_samples_count():
    for b in (2, 3, 5):
        torch.manual_seed(b); d, said = torch.rand(b, b), torch.rand(b, b); i, j = np.triu_indices(b, 1)
        d, said = (d + d.T)/2, (said + said.T)/2
        assert float(distance_loss(said, d).mean) == pytest.approx(float(((said - d)[i, j]**2).mean()), rel=1e-5)
    assert measure_samples(SampleObjective(model_of(), LossConfig()), [batch_of((4, 2, 3))])["loss"] > 0


# ---- hygiene of the same kind

def test_weights_by_category_are_given_by_plain_names():
    "The older AAM wanted keys of a form that its help did not tell, and gave every other key the weight 1 without a word."
    metadata = pd.DataFrame({"y": [1., 2, 3, 4], "site": list("aabb")}); targets = TargetCodec.fit(metadata.y); targets = Targets((targets,))
    config = lambda text: config_from({"data": dict(target="y"), "target": dict(balance=text)})
    np.testing.assert_array_equal(target_weights(targets, metadata, config("site: a=2, b=1"))[:, 0], [2, 2, 1, 1])
    with pytest.raises(AamError, match="'aa'"): target_weights(targets, metadata, config("site: aa=2"))


def test_no_array_is_read_by_running_what_it_says(tmp_path):
    class Bad:
        def __reduce__(self): return os.mkdir, (str(tmp_path/"ran"),)
    np.save(tmp_path/"d.npy", np.array([Bad()], dtype=object), allow_pickle=True); (tmp_path/"d.ids.txt").write_text("a\n")
    with pytest.raises(AamError): read_distances(tmp_path/"d.npy").rows([0])
    assert not (tmp_path/"ran").exists()


def test_a_bundle_predicts_a_table_of_samples_that_nobody_has_seen(run):
    table = simulate(samples=6, asvs=30, groups=3, length=40, seed=99).table
    metadata = pd.DataFrame({"diet": ["meat", "fish", None, "plants", "meat", "meat"], "bmi": [20., 25, NAN, 30, 22, 24]}, index=table.sample_ids)
    found = predict_table(load_bundle(run["bundle"]), table, metadata=metadata).rows
    assert len(found) == 6 and found["age:prediction"].notna().sum() == (found.note == "").sum() >= 4
