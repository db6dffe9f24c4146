"Intervals are wide where the model errs much, keep their promise there, and stay within natural bounds."
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.metrics import mean_pinball_loss

from aam_nb.batches.build import build_store
from aam_nb.batches.samples import SampleDataset
from aam_nb.config import config_from
from aam_nb.core import AamError
from aam_nb.data.codec import TargetCodec
from aam_nb.data.natural import bounds_notes, found_bounds, natural_bounds
from aam_nb.data.reach import ONE_WIDTH, Reach
from aam_nb.data.simulate import simulate
from aam_nb.data.targets import Targets
from aam_nb.evaluation.calibrate import calibrated, chosen_reach, conformal_margin
from aam_nb.evaluation.widths import crossed_sizes, even_reach, interval_cost, lopsided_reach, one_width
from aam_nb.runs.evaluate import fold_unseen
from aam_nb.types import Study


def study(rng, groups, grows=.7, repeats=5):
    "Groups of very different sizes whose samples err alike: encoded predictions, true values, groups."
    size = 1 + rng.negative_binomial(1.2, 1.2/(1.2 + repeats), groups)
    group = np.repeat(np.arange(groups), size)
    point = rng.normal(size=groups)[group]*.7 + rng.normal(size=len(group))*.7
    error = rng.normal(size=groups)[group]*.55 + rng.normal(size=len(group))*.83
    return point, point + .5*np.exp(grows*point)*error, group


def ends(found, point):
    reach, margin, _ = found
    return point + (margin*reach.sizes(point)*[-1, 1]).T


def held(found, point, truth, group):
    "The share of true values held, each group weighing the same: overall and by thirds of the predictions."
    low, high = ends(found, point)
    inside, weight = (low <= truth) & (truth <= high), 1/np.bincount(group)[group]
    parts = [np.arange(len(point)), *np.array_split(np.argsort(point), 3)]
    return [np.average(inside[o], weights=weight[o]) for o in parts], np.average(high - low, weights=weight)


def many(groups, studies, **how):
    "Means over studies: coverage, of all and of thirds; width over one width's; whether a reach was learned."
    rows = []
    for i in range(studies):
        rng = np.random.default_rng([groups, i])
        point, truth, group = study(rng, groups, **how)
        new = study(rng, 300, **how)
        found = chosen_reach(point, truth, group)
        margin, level = found[1:]
        if found[0] != ONE_WIDTH: margin, level = margin_alone(point, truth, group)
        (cover, wide), (_, plain) = held(found, *new), held((ONE_WIDTH, margin, level), *new)
        rows.append([*cover, wide/plain, found[0] != ONE_WIDTH])
    return np.mean(rows, axis=0)


def margin_alone(point, truth, group):
    return conformal_margin(np.abs(truth - point), group, .9)


def test_new_groups_are_covered_in_each_third_by_narrower_intervals():
    cover, low, middle, high, width, learned = many(60, 20)
    assert .88 < cover < .94 and min(low, middle, high) > .85 and max(low, middle, high) < .97
    assert width < .97 and learned > .9


def test_one_width_leaves_the_high_third_uncovered():
    "What the adaptive width mends: the promise is kept on average and broken where errors are large."
    rng = np.random.default_rng(0)
    point, truth, group = study(rng, 200)
    margin, level = margin_alone(point, truth, group)
    (cover, low, _, high), _ = held((ONE_WIDTH, margin, level), *study(rng, 3000))
    assert .88 < cover < .93 and low > .97 and high < .82


@pytest.mark.slow
@pytest.mark.parametrize("groups", [8, 15, 30])
@pytest.mark.parametrize("repeats", [1, 5, 20])
def test_few_groups_keep_the_promise_too(groups, repeats):
    cover, *thirds, width, _ = many(groups, 20, repeats=repeats)
    least = .8 if groups*repeats > 8 else .7 # eight samples of eight groups show hardly anything
    assert cover > .88 and min(thirds) > least and width < 1.03


def test_without_a_pattern_one_width_is_kept():
    found = [chosen_reach(*study(np.random.default_rng([1, i]), 30, grows=0.))[0] for i in range(25)]
    assert sum(o == ONE_WIDTH for o in found) >= 22


def test_fewer_than_eight_groups_learn_no_reach_and_keep_their_margin():
    point, truth, group = study(np.random.default_rng(0), 7)
    reach, margin, level = chosen_reach(point, truth, group)
    assert (reach, level) == (ONE_WIDTH, 7/8) and margin == np.abs(truth - point).max()


def test_a_skewed_error_gets_a_reach_by_side():
    rng = np.random.default_rng(3)
    point = rng.normal(size=1500)
    truth = point + rng.exponential(size=1500)*np.exp(point/2) - .2
    reach, margin, _ = chosen_reach(point, truth)
    assert min(np.array(reach.above)/np.array(reach.below)) > 1.5
    new = rng.normal(size=9000)
    low, high = ends((reach, margin, .9), new)
    value = new + rng.exponential(size=9000)*np.exp(new/2) - .2
    assert .88 < ((low <= value) & (value <= high)).mean() < .92


@pytest.mark.parametrize("fit", [one_width, even_reach, lopsided_reach])
def test_a_group_has_no_part_in_its_own_reach(fit):
    point, truth, group = study(np.random.default_rng(5), 12)
    weights = 1/np.bincount(group)[group]
    before = crossed_sizes(fit, point, truth, weights, group)
    worse = np.where(group == 4, truth + 50, truth)
    after = crossed_sizes(fit, point, worse, weights, group)
    assert (before[group == 4] == after[group == 4]).all() and (before > 0).all()
    assert fit is one_width or (after != before).any()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-9, 9)]*3), min_size=1, max_size=9), st.sampled_from([.5, .8, .9]))
def test_the_cost_of_an_interval_is_the_pinball_loss_of_its_ends(rows, level):
    "Gneiting and Raftery (2007), equations 41 and 43, against scikit-learn."
    a, b, truth = np.array(rows).T
    low, high = np.minimum(a, b), np.maximum(a, b)
    tail = (1 - level)/2
    wanted = mean_pinball_loss(truth, low, alpha=tail) + mean_pinball_loss(truth, high, alpha=1 - tail)
    assert interval_cost(low, high, truth, level).mean() == pytest.approx(wanted/tail, abs=1e-9)


@pytest.mark.parametrize("fit", [even_reach, lopsided_reach])
@pytest.mark.parametrize("point,truth", [
    (np.zeros(20), np.arange(20.)),               # one prediction for all
    (np.arange(20.), np.arange(20.)),             # no errors
    (np.repeat([0., 1.], 10), np.arange(20.)),    # two predictions
    (np.arange(20.), np.arange(20.) + 1),         # errors on one side alone
    (1e6*np.arange(20.), 1e-6*np.arange(20.)),
])
def test_odd_errors_give_a_reach_that_can_be_used(fit, point, truth):
    reach = fit(point, truth, np.ones(20))
    sizes = reach.sizes(np.array([-1e9, 0., 1e9]))
    assert np.isfinite(sizes).all() and (sizes > 0).all()
    low, high = ends(chosen_reach(point, truth), point)
    assert ((low <= truth + 1e-9) & (truth <= high + 1e-9)).mean() >= .9


# In the codec


AGE = TargetCodec.fit(pd.Series([1., 4., 9.], name="age"))


def back(codec): return TargetCodec.from_dict(json.loads(json.dumps(codec.to_dict())))


def test_a_reach_multiplies_the_margin_by_side_and_survives_json():
    codec = replace(AGE, margin=2., reach=Reach(at=(-1., 1.), below=(.1, .3), above=(.2, .4)))
    assert back(codec) == codec
    encoded = np.array([[-3.], [0.], [1.]])
    low, high = back(codec).interval(encoded).T
    point = codec.decode(encoded)
    assert point - low == pytest.approx(2*codec.sd*np.array([.1, .2, .3]))
    assert high - point == pytest.approx(2*codec.sd*np.array([.2, .3, .4]))


def test_codecs_without_reach_and_natural_bounds_are_those_of_earlier_versions():
    saved = replace(AGE, margin=.5).to_dict()
    assert not {"reach", "natural"} & set(saved)
    old, outputs = TargetCodec.from_dict(saved), np.array([[-4.], [0.], [2.]])
    assert (old.reach, old.natural) == (ONE_WIDTH, (None, None))
    wanted = (outputs + [[-.5, .5]])*AGE.sd + AGE.mean
    np.testing.assert_array_equal(old.interval(outputs), wanted)
    np.testing.assert_array_equal(old.interval(outputs, unseen=np.array([0., .5, 1.])), wanted)


@pytest.mark.parametrize("reach", [
    3, dict(at=[0., 0.]), dict(at=[1., 0.], below=[1., 1.], above=[1., 1.]), dict(below=[0.]),
    dict(above=[-1.]), dict(above=["wide"]), dict(usual=2.), dict(lowest=3.), dict(highest=float("nan")),
    dict(width=1.), dict(at=[]), dict(at=3.),
])
def test_a_damaged_reach_is_refused(reach):
    with pytest.raises(AamError): TargetCodec.from_dict(AGE.to_dict() | dict(reach=reach, margin=1.))
    with pytest.raises(AamError): TargetCodec.from_dict(AGE.to_dict() | dict(natural=[3., 1.]))


def test_classes_have_neither():
    site = TargetCodec.fit(pd.Series(list("ab")))
    with pytest.raises(AamError, match="not sound"): replace(site, natural=(0., None))
    with pytest.raises(AamError, match="not sound"): replace(site, reach=Reach(below=(2.,)))


def test_more_unseen_reads_never_narrow_an_interval():
    reach, same = Reach(usual=.1, lowest=-2., highest=.3), np.array([[.2, .5]]*5)
    found = reach.widened(same, np.array([0., .1, .4, .7, 1.]))
    assert (found[:2] == same[:2]).all() and found[-1] == pytest.approx([-2., .5])
    assert (np.diff(found[:, 0]) <= 0).all() and (np.diff(found[:, 1]) >= 0).all()


def test_calibration_learns_what_is_usual_from_the_samples_that_it_sees():
    point, truth, group = study(np.random.default_rng(2), 40)
    unseen = np.random.default_rng(3).beta(1, 30, len(point))
    codec, _ = calibrated(AGE, point[:, None], truth, group, unseen=unseen)
    low, high = codec.interval(point[:, None], unseen=np.ones(len(point))).T
    true = truth*AGE.sd + AGE.mean
    weight = 1/np.bincount(group)[group]
    assert np.average((low <= true) & (true <= high), weights=weight) >= .9 - 1e-9
    assert np.average(unseen <= codec.reach.usual, weights=weight) == pytest.approx(.95, abs=.02)
    few = codec.interval(point[:, None], unseen=np.minimum(unseen, codec.reach.usual))
    np.testing.assert_array_equal(few, codec.interval(point[:, None]))
    without, _ = calibrated(AGE, point[:, None], truth, group)
    assert without.margin == codec.margin and without.reach.usual == 1


def test_quantiles_keep_widths_of_their_own():
    codec = TargetCodec.fit(pd.Series([1., 4., 9.], name="age"), loss="quantile", levels=(.1, .5, .9))
    point, truth, group = study(np.random.default_rng(2), 40)
    assert calibrated(codec, point[:, None] + [-.3, 0., .3], truth, group)[0].reach == ONE_WIDTH


# Natural bounds


RNG = np.random.default_rng(0)


@pytest.mark.parametrize("values,wanted", [
    (RNG.gamma(2., 10., 200), (0., None)), (RNG.beta(.5, .5, 200), (0., 1.)),
    (np.append(RNG.integers(0, 7, 200), 10), (0., 10.)), (100*RNG.beta(.5, .5, 200), (0., 100.)),
    (np.repeat([1., 2., 3., 4., 5.], [2, 50, 50, 50, 2]), (None, None)),
    (np.repeat([1., 2., 3., 4., 5.], [20, 9, 9, 9, 20]), (1., 5.)),
    (RNG.uniform(15, 30, 200), (None, None)), (RNG.normal(size=200), (None, None)),
    (RNG.uniform(4, 9, 200), (None, None)), (RNG.poisson(1., 300), (0., None)),
    (np.arange(19.), (None, None)),
    (np.ones(50), (None, None)), (-RNG.gamma(2., 10., 200), (None, None)),
])
def test_bounds_are_found_where_values_show_them(values, wanted):
    assert natural_bounds(values) == wanted


def test_samples_of_one_group_are_one_fact():
    years = np.append(np.arange(20, 60), np.full(30, 61))
    assert natural_bounds(years)[1] is None # too many steps
    few = np.append(np.tile(np.arange(20, 40), 2), np.full(30, 40))
    assert natural_bounds(few)[1] == 40 and natural_bounds(few, [*range(40), *[99]*30])[1] is None


def test_few_groups_of_many_samples_show_a_lowest_value():
    assert natural_bounds(np.tile([0., 0., 0., 3., 7.5], 6), np.repeat(["a", "b"], 15)) == (0., None)


def config(**target): return config_from({"data": {"target": ["age"], "groups": "who"}, "target": target})


def metadata():
    rng = np.random.default_rng(1)
    return pd.DataFrame(dict(age=rng.gamma(1., 10., 60), who=np.arange(60)//2), index=range(60))


@pytest.mark.parametrize("target,wanted", [
    ({}, (0., None)), (dict(bounds=[-np.inf, np.inf]), (None, None)), (dict(bounds=[0, 99]), (None, None)),
    (dict(columns={"age": {"bounds": [0, np.inf]}}), (None, None)),
])
def test_given_bounds_switch_the_search_off(target, wanted):
    made = Targets.fit(metadata(), config(**target)).codecs[0]
    assert made.natural == wanted == found_bounds(metadata(), config(**target), "age")
    assert len(bounds_notes(metadata(), config(**target))) == (wanted != (None, None))


def test_natural_bounds_hold_predictions_and_refuse_nothing():
    codec = Targets.fit(metadata(), config()).codecs[0]
    wide = replace(codec, margin=3.)
    low, high = wide.interval(np.array([[-5.], [0.]])).T
    assert low.tolist() == [0., 0.] and wide.decode(np.array([[-5.], [0.]]))[0] == 0 and high[1] > 20
    assert np.isfinite(codec.encode(pd.Series([-3.], index=["odd"]))).all()


def test_only_training_rows_show_bounds():
    rows = metadata()
    rows.iloc[50:, 0] = -4.
    assert Targets.fit(rows, config(), train=np.arange(50)).codecs[0].natural == (0., None)
    assert Targets.fit(rows, config()).codecs[0].natural == (None, None)

# In an evaluation


def test_what_is_usual_is_counted_by_hand():
    "The reads of a held-out sample whose ASVs no sample of its training part has."
    table = simulate(samples=12, asvs=30, groups=4, seed=1).table
    counts = table.counts.toarray()
    counts[3:6, 7] = 40 # ASVs of these samples alone
    counts[[*range(3), *range(6, 12)], 7] = 0
    counts[9:, 8], counts[:9, 8] = 20, 0
    store = build_store(Study(table=replace(table, counts=csr_matrix(counts))))
    rows = np.arange(12)
    inner = [(np.r_[0:3, 6:9], rows[3:6]), (rows[3:9], rows[:3]), (rows[:6], rows[6:9])]
    found = fold_unseen(lambda rows: SampleDataset(store, rows), rows[:9], rows[9:], inner)
    for fit, held in [*inner, (rows[:9], rows[9:])]:
        new = counts[fit].sum(0) == 0
        np.testing.assert_allclose(found[held], counts[held][:, new].sum(1)/counts[held].sum(1))
    assert (found[3:6] > 0).all() and (found[9:] > 0).all()
