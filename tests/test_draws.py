"Draws follow their key alone, whoever else is drawn for, and are uniform."
import numpy as np
from small_samples import sample

from aam_nb.batches.draws import AsvDraws, generator_from, keyed_draws, pair_draws, unit_draws, view_words


def test_the_generators_of_views_are_uniform_and_independent():
    ones = [sample(1, 1, f"S{i}") for i in range(4000)]
    words = view_words([o.id for o in ones], [0]*4000, 7, "augment")
    draws = np.array([generator_from(o[:4]).random(20) for o in words])
    for o in (draws, unit_draws(words), keyed_draws(words[:, 6:7], np.arange(20)),
              keyed_draws(words[:, 7:], np.arange(20))):
        assert abs(o.mean() - .5) < .005 and abs(o.var() - 1/12) < .0015 and len(np.unique(o)) == o.size
        assert abs(np.corrcoef(o[1:].ravel(), o[:-1].ravel())[0, 1]) < .018
        assert abs(np.corrcoef(o[:, 1:].ravel(), o[:, :-1].ravel())[0, 1]) < .018

def test_draws_by_sequence_are_uniform_and_independent():
    keys = np.random.default_rng(0).integers(-2**63, 2**63, 3000)
    keys[:1000] = np.arange(1000) # Also keys that differ by little
    draws = AsvDraws(keys, 7, "mask", 3).random((3000, 25))
    assert 0 <= draws.min() and draws.max() < 1
    assert abs(draws.mean() - .5) < .004 and abs(draws.var() - 1/12) < .001
    assert np.histogram(draws, 20, (0, 1))[0].std() < 4*np.sqrt(75_000/20)
    other = AsvDraws(keys, 7, "mask", 4).random((3000, 25))
    flat = lambda o: o.ravel()
    assert abs(np.corrcoef(flat(draws), flat(other))[0, 1]) < .015
    assert abs(np.corrcoef(flat(draws[1:]), flat(draws[:-1]))[0, 1]) < .015
    assert abs(np.corrcoef(flat(draws[:, 1:]), flat(draws[:, :-1]))[0, 1]) < .015

def test_draws_by_sequence_do_not_depend_on_company():
    keys = np.arange(50)
    rows = np.array([7, 3, 41])
    assert (AsvDraws(keys[rows], 1, 2).random((3, 9)) == AsvDraws(keys, 1, 2).random((50, 9))[rows]).all()
    assert (AsvDraws(keys, 1, 2).random((50, 4)) == AsvDraws(keys, 1, 2).random((50, 9))[:, :4]).all()

def test_draws_of_pairs_follow_key_sample_and_sequence_and_are_uniform():
    keys = np.random.default_rng(0).integers(-2**63, 2**63, 4000)
    of = np.repeat(np.arange(40), 100)
    ids = [f"S{i}" for i in range(40)]
    draw = pair_draws(keys, of, ids, 7, "hide", 3)
    assert np.histogram(draw, 20, (0, 1))[0].std() < 4*np.sqrt(200) and 0 <= draw.min() and draw.max() < 1
    back = np.random.default_rng(1).permutation(4000)[:900]
    assert (pair_draws(keys[back], of[back], ids, 7, "hide", 3) == draw[back]).all()
    # Another step, samples, sequences
    others = ((keys, ids, 4), (keys, ids[1:] + ids[:1], 3), (keys[::-1].copy(), ids, 3))
    for other in (pair_draws(k, of, names, 7, "hide", step) for k, names, step in others):
        assert abs(np.corrcoef(draw, other)[0, 1]) < .06 and not (draw == other).any()
