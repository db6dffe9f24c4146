"Whose turn it is: parts of processes, and studies of steps."
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aam_nb.batches.turns import rank_part, study_turns


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 12))
def test_parts_cover_a_batch_once_and_are_even(n, world):
    parts = [list(range(n))[rank_part(n, o, world)] for o in range(world)]
    assert sum(parts, []) == list(range(n)) and max(map(len, parts)) - min(map(len, parts)) <= 1
    if n >= world: assert all(parts)


SIZES = st.lists(st.integers(0, 1000), min_size=1, max_size=6).filter(any)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(0, 200), st.floats(1, 100), st.integers(0, 9))
def test_the_study_of_a_step_does_not_depend_on_the_length_of_the_run(sizes, steps, temperature, seed):
    study, turn = study_turns(sizes, steps, seed, temperature)
    more, later = study_turns(sizes, steps + 50, seed, temperature)
    assert (more[:steps] == study).all() and (later[:steps] == turn).all() and all(sizes[k] for k in study)
    for i in range(steps): assert turn[i] == np.sum(study[:i] == study[i])
