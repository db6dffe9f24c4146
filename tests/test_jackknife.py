"Intervals over groups hold the truth as often as they say, also where groups are few and of unequal sizes."
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from aam_nb.evaluation.jackknife import (
    apart, BLOCKS, effective, explained, FEWEST, jackknife, plain, share, size)
from aam_nb.evaluation.scores import score_functions, with_ends


def benchmark():
    "The simulation that the method was chosen by."
    path = Path(__file__).parents[1]/"benchmarks/coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    import sys
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_of_a_mean_it_is_the_t_interval_of_scipy():
    x = np.random.default_rng(0).normal(size=12)
    ref = stats.ttest_1samp(x, 0).confidence_interval(.95)
    assert jackknife(lambda rows: x[rows].mean(), range(12)) == pytest.approx((ref.low, ref.high))
    means = x.reshape(4, 3).mean(0)
    ref = stats.ttest_1samp(np.tile(means, 2), 0).confidence_interval(.95)
    six = jackknife(lambda rows: np.tile(x, 2)[rows].mean(), np.tile(np.arange(3), 8) + np.repeat([0, 3], 12))
    assert six == pytest.approx((ref.low, ref.high))


def test_many_samples_are_dealt_into_blocks():
    x, asked = np.random.default_rng(0).normal(size=5000), []
    low, high = jackknife(lambda rows: asked.append(len(rows)) or x[rows].mean(), range(5000))
    ref = stats.ttest_1samp(x, 0).confidence_interval(.95)
    assert high - low == pytest.approx(ref.high - ref.low, rel=.15)
    assert len(asked) == BLOCKS + 1 and set(asked) == {5000, 4975}


def test_a_group_is_left_out_whole_and_once():
    seen, groups = [], np.array(list("abcdeabcdd"))
    jackknife(lambda rows: seen.append(groups[rows]) or 0., groups)
    assert len(seen[0]) == 10 and [set("abcde") - set(o) for o in seen[1:]] == [{o} for o in "abcde"]


def test_no_interval_where_groups_are_too_few_or_cannot_be_spared():
    x = np.arange(12.)
    for n in range(1, 8):
        low, _ = jackknife(lambda rows: x[rows].mean(), np.arange(12) % n)
        assert np.isnan(low) == (n < FEWEST)
    yes = np.arange(12) < 2 # all positives are in one group, without which there is no AUC
    p = np.stack([1 - x/12, x/12], 1)
    auc = score_functions("classification", yes.astype(int), p, np.zeros(12))["auc"]
    assert np.isnan(with_ends("auc", auc, np.arange(12)//2)[1:]).all()


def test_all_right_is_no_certainty():
    "Jeffreys's interval, and none for a difference that is nothing without each group."
    low, high = jackknife(lambda rows: 1., np.arange(40)//5, share)
    assert (low, high) == (pytest.approx(stats.beta.ppf(.025, 8.5, .5)), 1.)
    assert jackknife(lambda rows: 0., np.arange(40)//5, share) == pytest.approx((0, 1 - low))
    assert np.isnan(with_ends("auc", lambda rows: 0., np.arange(40)//5, difference=True)[1])
    assert with_ends("mae", lambda rows: 2., np.arange(40)//5)[1:] == (2., 2.)


@given(st.floats(.001, .999), st.floats(0, 5))
def test_ends_stay_where_a_score_can_be(value, margin):
    for ends, least, most in ((share, 0, 1), (size, 0, np.inf), (explained, -np.inf, 1)):
        low, high = ends(value, margin)
        assert least <= low <= value*(1 + 1e-9) + 1e-9 and value*(1 - 1e-9) - 1e-9 <= high <= most
    assert plain(value, margin) == (value - margin, value + margin)
    assert -1 <= apart(value, margin)[0] <= value <= apart(value, margin)[1] <= 1


def test_small_margins_are_added_on_every_scale():
    for ends in (share, size, explained):
        assert ends(.7, 1e-4) == pytest.approx((.7 - 1e-4, .7 + 1e-4), abs=1e-7)


def test_one_large_group_counts_for_little():
    assert effective(np.full(9, 4)) == pytest.approx(9) and effective(np.array([1000, 1, 1])) < 1.1
    x = np.random.default_rng(1).normal(size=70)
    even, one = np.repeat(np.arange(7), 10), np.repeat(np.arange(7), [40, 5, 5, 5, 5, 5, 5])
    def width(groups): return np.ptp(jackknife(lambda rows: x[rows].mean(), groups))
    assert width(one) > 1.5*width(even)


@pytest.mark.parametrize("groups", [8, 30])
def test_intervals_hold_and_the_percentile_bootstrap_over_few_groups_does_not(groups):
    simulated = benchmark()
    found = simulated.coverage(simulated.Design(groups), simulations=250)
    for name, (held, had_one, _) in found.items():
        assert .915 <= held <= .99 and had_one > .99, name
    if groups > 8: return
    def only(found, group): return simulated.percentile(found, group, 100) if found[0] == "mae" else (0, 0)
    assert simulated.coverage(simulated.Design(8), only, simulations=250)["mae"][0] < .91


@pytest.mark.slow
@pytest.mark.parametrize("groups", [8, 15, 30, 60])
def test_coverage_of_every_score_and_difference(groups):
    "Over 500 studies of each of four kinds 93 to 97 % of the intervals hold the truth; of each kind nearly."
    # A jackknife of pairs within small folds is cautious, so differences in AUC may reach 97.5 %.
    simulated, cells = benchmark(), {}
    for how in simulated.DESIGNS:
        for name, (held, had_one, _) in simulated.coverage(simulated.Design(groups, **how)).items():
            cells.setdefault(name, []).append(held)
            assert had_one > .85, (name, how)
    for name, held in cells.items():
        assert .93 <= np.mean(held) <= (.975 if name == "auc, difference" else .97), (name, held)
        assert .91 <= min(held) and max(held) <= .99, (name, held)
