"A small reference of the whole gene: simulated genes between the primers of all regions, with their tree."
import numpy as np

from aam_nb.data.regions import other_strand, PRIMERS
from aam_nb.data.simulate import simulate
from aam_nb.data.tree import newick

PLAIN = str.maketrans("RYSWKMBDHVN", "ACCTGACAAAA") # One base of those that a letter stands for


def plain(primer, reverse=False):
    "A primer as it stands in a gene."
    return (other_strand(primer) if reverse else primer).translate(PLAIN)


def gene(letters):
    "A gene with V1 to V4 of 300, 90 and 280 bases, whose letters come from a sequence of 700."
    head, middle, tail = letters[:300], letters[300:390], letters[390:670]
    shared = plain(PRIMERS["515F"]) # 534R binds within it, on the other strand
    return "".join(["AC", plain(PRIMERS["27F"]), head, plain(PRIMERS["341F"]), middle, shared, tail,
                    plain(PRIMERS["806R"], True), letters[670:]])


def study(genes=60, seed=1):
    "The simulated study whose sequences become genes; a few of them may have no reads and are left out."
    return simulate(samples=40, asvs=genes, groups=3, length=700, seed=seed)


def write_reference(folder, made):
    "Write genes and tree as the reference lays them out; returns the folder."
    for name in ("rep_set", "trees"): (folder/name).mkdir(parents=True)
    lines = [f">{o}\n{gene(o)}\n" for o in made.table.sequences]
    (folder/"rep_set/97_otus.fasta").write_text("".join(lines))
    (folder/"trees/97_otus.tree").write_text(newick(made.tree))
    return folder


def at_tips(made):
    "Sequences of a study in the order of its tree's tips."
    return [made.table.sequences[i] for i in np.argsort(made.tip)]
