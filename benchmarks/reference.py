"""What an encoder of a reference has learned: the scores of its card, and how well it orders the ASVs of real
studies by their own trees. Kept in benchmarks/results/reference.md.

    aam pretrain reference --reference qiime-default-reference-0.1.3.tar.gz --out runs/reference
    python benchmarks/reference.py runs/reference/bundle            # studies are those under AAM_DATA
    python benchmarks/reference.py runs/reference/bundle --ship   # also put it into aam_nb/shipped/reference

Rank correlation is over pairs of at most 1,500 ASVs of a study, between distances of vectors and path lengths
along the study's tree; `6-mers` stands for distances of 6-mer profiles. Hidden bases are those of the study.
"""
import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from aam_nb.core import keyed_rng
from aam_nb.data.table import read_table
from aam_nb.data.tokens import tokenize
from aam_nb.data.tree import path_lengths, read_tree, shear
from aam_nb.inference.bundle import load_bundle, save_bundle
from aam_nb.inference.shipped import bases_right, SHIPPED

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("AAM_DATA") or ROOT.parent/"shared/data")
STUDIES = ("ecam_infant", "cfs87", "ibd_crohns_2538", "global_gut", "hmp_v35_bodysite")


def asvs_of(name, most=1500):
    "Tokens of a study's ASVs, and path lengths between them along its own tree."
    sequences = read_table(DATA/name/"table.biom").sequences
    tree, tip = shear(read_tree(DATA/name/"tree.nwk"), sequences)
    at = np.flatnonzero(tip >= 0)
    at = np.sort(keyed_rng("asvs", name).permutation(at)[:most])
    return tokenize(sequences[at]), path_lengths(tree, tip[at])


def profiles(tokens):
    "Shares of the 6-mers of each sequence."
    code = sum((tokens[:, k:tokens.shape[1]-5+k].astype(np.int64) - 1) % 4*4**k for k in range(6))
    out = np.zeros((len(tokens), 4**6), np.float32)
    for i, o in enumerate(code): out[i] = np.bincount(o[tokens[i, :len(o)] > 0], minlength=4**6)
    return out/out.sum(1, keepdims=True)


def agreement(vectors, paths):
    "Rank correlation between distances of vectors and path lengths."
    far = torch.cdist(*[torch.as_tensor(vectors).double()]*2).numpy()
    pairs = np.triu_indices(len(far), 1)
    return spearmanr(far[pairs], paths[pairs])[0]


@torch.no_grad()
def rows(bundle):
    "A line for each study that is there."
    for name in (o for o in STUDIES if (DATA/o).is_dir()):
        tokens, paths = asvs_of(name)
        z = torch.cat([bundle.model.encode(o) for o in torch.from_numpy(tokens).split(256)])
        yield (f"| {name} | {tokens.shape[1]} | {agreement(z, paths):.3f} | "
               f"{agreement(profiles(tokens), paths):.3f} | {bases_right(bundle, tokens):.1%} |")


def page(bundle, command):
    "The result as a page."
    about, steps = bundle.about, bundle.config.pretrain_asv
    lines = [f"- {k}: {v}" for k, v in about["scores_of_tips_held_back"].items()]
    return "\n".join([
        "# An encoder of a reference", "", f"`{command}`", "",
        f"{steps.steps:,} steps of {steps.batch} windows; {about['tips']:,} tips taught, "
        f"{about['tips_held_back']:,} were held back.", "", "## Tips that were held back", "", *lines, "",
        "## Studies, by their own trees", "",
        "| study | bases | rank correlation | the same of 6-mers | hidden bases right |",
        "|---|---|---|---|---|",
        *rows(bundle), ""])


if __name__ == "__main__":
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("bundle", type=Path)
    ask.add_argument("--ship", action="store_true")
    ask.add_argument("--no-page", action="store_true", help="print, and keep no results")
    given = ask.parse_args()
    torch.set_num_threads(1)
    bundle = load_bundle(given.bundle)
    text = page(bundle, "python benchmarks/reference.py runs/reference/bundle")
    print(text)
    if not given.no_page: (ROOT/"benchmarks/results/reference.md").write_text(text)
    if given.ship:
        config = replace(bundle.config, run=replace(bundle.config.run, out="runs/reference", start=""),
                         data=replace(bundle.config.data, reference=Path(bundle.config.data.reference).name))
        save_bundle(SHIPPED/"reference", replace(bundle, config=config))
