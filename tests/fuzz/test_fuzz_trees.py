"Newick trees and FASTA files, altered: read or refused."
import gzip
import time

import numpy as np
import pytest
from fuzzing import altered, fuzz, sizes

from aam_nb.core import AamError
from aam_nb.data.sequences import odd_letters, read_sequences
from aam_nb.data.simulate import simulate
from aam_nb.data.tree import newick, parse_newick, path_lengths, read_tree

NEWICK = [b"(", b")", b",", b":", b";", b"'", b'"', b"''", b"[", b"]", b":1e-9", b":-1", b"(a,b)",
          b"("*50_000, b")"*50_000, b"'it''s'", b"[&R]", b"#NEXUS", b":1_0", b":inf", b":\xd9\xa1"]
FASTA = [b">", b">a\n", b";size=3", b"\r\n", b"-", b"N", b"U", b"\n\n", b">>", b"A"*100_000, b">a b c\n",
         b"*"]


def seed_newick():
    "A tree with inner names, quoted tips, comments and lengths of every kind."
    text = newick(simulate(samples=12, asvs=16, groups=4, length=20, seed=2).tree)
    return (text[:-1] + "[&R a [nested] comment]'root one':1.5e-3;").replace("ACG", "'A''C'", 1).encode()


def seed_fasta():
    rng = np.random.default_rng(1)
    letters = rng.choice(list("ACGTacgtuN"), (12, 30))
    return "".join(f">ASV{i};size={i} text\n{''.join(o)}\n" for i, o in enumerate(letters)).encode()


def written(folder, name, data):
    path = folder/name
    path.write_bytes(data)
    return path


def maker(data, name, words, pack=lambda o: o):
    "What writes one altered copy of `data`."
    return lambda rng, folder: written(folder, name, pack(altered(data, rng, words)))


def sound_tree(path):
    "Whatever is read is a sound tree."
    tree = read_tree(path)
    tips = len(tree.tips)
    assert tips and (tree.start < tree.stop).all() and tree.start.min() >= 0 and tree.stop.max() <= tips
    assert np.isfinite(tree.length).all() and (tree.length >= 0).all() and tree.length.any()
    some = np.arange(min(tips, 20))
    assert np.isfinite(path_lengths(tree, some)).all()


def sound_sequences(path):
    found = read_sequences(path)
    assert found and all(k and v and not odd_letters(v) for k, v in found.items())


def named_tree(path):
    "Tips by an altered file of sequences."
    tree = read_tree(path.with_name("tree.nwk"), path)
    assert len(tree.tips) == 12


@sizes
def test_newick(tmp_path, n):
    found = fuzz(sound_tree, maker(seed_newick(), "t.nwk", NEWICK), tmp_path, n)
    assert found["refused"] > n/5 and found["read"] > n/50


@sizes
def test_newick_in_gzip(tmp_path, n):
    found = fuzz(sound_tree, maker(gzip.compress(seed_newick(), mtime=0), "t.nwk.gz", NEWICK), tmp_path, n//4)
    assert found["refused"] > n/8


@sizes
def test_fasta(tmp_path, n):
    found = fuzz(sound_sequences, maker(seed_fasta(), "s.fna", FASTA), tmp_path, n)
    assert found["refused"] > n/10 and found["read"] > n/50


@sizes
def test_tips_by_altered_sequences(tmp_path, n):
    tips = ",".join(f"ASV{i}:{i + 1}" for i in range(12))
    written(tmp_path, "tree.nwk", f"({tips});".encode())
    assert fuzz(named_tree, maker(seed_fasta(), "s.fna", FASTA), tmp_path, n//4)["read"] > n/200


@pytest.mark.parametrize("text", [
    "("*10**6 + "a:1" + ")"*10**6 + ";", "("*10**6, "("*10**6 + "a:1,b:1" + "):1"*10**6 + ";",
    "[" * 10**6, "'"*10**6, '"'*10**6, "(a:1,b:1)" + "[x]"*300_000 + ";", "a"*10**6 + ":1;",
    "(" + "a:1,"*300_000 + "b:1);", "(a:" + "1"*10**6 + ",b:1);", '("'*300_000], ids=range(11))
def test_a_million_signs_take_linear_time(text):
    begun = time.process_time()
    try: parse_newick(text)
    except AamError as e: assert len(str(e)) < 600
    assert time.process_time() - begun < 15
