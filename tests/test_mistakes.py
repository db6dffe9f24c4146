"Mistakes at the command line: one sentence in the words of that command, never advice for Python."
import hashlib
import re
import shutil
from functools import cache

import numpy as np
import pytest
from typer.testing import CliRunner

from aam_nb.cli import app
from aam_nb.config import all_keys
from aam_nb.data.simulate import simulate, write_study
from aam_nb.data.tree import newick
from aam_nb.registry import metrics
from test_caller import commands, public

PYTHON = re.compile(r"\b\w+='[^']*'|\b\w+=\.\.\.|\b\w+=(True|False|None)\b|\b\w+=\d+\b|Traceback|AamError")
KEY = re.compile(rf"\b(?:{'|'.join(sorted({o.split('.')[0] for o in all_keys()}))})\.\w+=")
SMALL = "optim.steps=2 pretrain_asv.steps=2 pretrain_sample.steps=0 model.width=16 model.layers=1"


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    "A study in many files, sound and not, a store, a run and its bundle."
    d = tmp_path_factory.mktemp("mistakes")
    study = simulate(samples=30, asvs=24, groups=10, length=40, seed=6)
    write_study(study, d)
    counts, ids = study.table.counts.toarray().T, study.ids
    def table(name, features, samples=ids, counts=counts):
        rows = [["#OTU ID", *samples], *([f, *map(str, c)] for f, c in zip(features, counts, strict=True))]
        (d/name).write_text("\n".join("\t".join(o) for o in rows) + "\n")
    sequences = list(study.table.sequences)
    named = [f"ASV{i}" for i in range(len(sequences))]
    table("named.tsv", named)
    table("hashed.tsv", [hashlib.md5(o.encode()).hexdigest() for o in sequences])
    table("r.tsv", sequences, [f"X{o}" for o in ids])
    table("fractions.tsv", sequences, counts=counts/counts.sum(0))
    table("empty.tsv", sequences, counts=counts*0)
    (d/"named.fna").write_text("".join(f">{k}\n{v}\n" for k, v in zip(named, sequences, strict=True)))
    (d/"few.fna").write_text("".join(f">{k}\n{v}\n" for k, v in list(zip(named, sequences, strict=True))[:9]))
    text = newick(study.tree)
    for k, v in zip(sequences, named, strict=True): text = text.replace(k, v)
    (d/"named.nwk").write_text(text)
    (d/"cut.nwk").write_text(text[:200])
    (d/"bare.nwk").write_text(re.sub(r":[\d.e-]+", "", text))
    (d/"t.nex").write_text("#NEXUS\n" + text)
    lines = (d/"metadata.tsv").read_text().splitlines()
    (d/"short.tsv").write_text("\n".join(lines[:20]) + "\n")
    (d/"commas.tsv").write_text("\n".join(lines).replace("\t", ",") + "\n")
    np.savez(d/"objects.npz", ids=ids[:5], matrix=np.zeros((5, 5)))
    np.savez(d/"few.npz", ids=ids[:5].astype(str), matrix=np.zeros((5, 5)))
    (d/"ids.txt").write_text("nobody\n")
    (d/"files").mkdir()
    (d/"files/notes.txt").write_text("mine")
    done = run(d, "cache store --table table.biom --metadata metadata.tsv --out store")
    assert done.exit_code == 0, done.stderr
    shutil.copytree(d/"store", d/"torn")
    (d/"torn/reads.npy").write_bytes((d/"torn/reads.npy").read_bytes()[:-9])
    done = run(d, "train --table table.biom --metadata metadata.tsv --target age --groups subject "
                  f"data.covariates=site --out run {SMALL}")
    assert done.exit_code == 0, done.stderr
    return d


def run(folder, words):
    "A command line with the files of a folder; `'` holds words together."
    with pytest.MonkeyPatch.context() as m:
        m.chdir(folder)
        return CliRunner().invoke(app, [o.strip("'") for o in re.findall(r"'[^']*'|\S+", words)])


SHORT = {"{as_is}": "{good} loss.metric=precomputed loss.distance=1 augment.rarefy=0 augment.asv_dropout=0",
         "{good}": "{files} --target age --groups subject --out new",
         "{files}": "--table table.biom --metadata metadata.tsv",
         "{bundle}": "--bundle run/bundle"}

# A command line => what its message says, as a regular expression
LINES = """
train --target age --out new => --table FILE
inspect --table absent.biom => no file absent.biom
train --table named.tsv --out new => --sequences
cache store --table named.tsv --out new => --sequences
predict {bundle} --table hashed.tsv --out p.tsv => Pass --sequences rep-seqs.qza
embed {bundle} --table named.tsv --out p.npz => --sequences
inspect --table named.tsv --sequences few.fna => lacks 14 of the 23
inspect --table table.biom --sequences absent.fna => no file absent.fna
inspect --table table.biom --tree named.nwk => --sequences FILE
cache store --table table.biom --tree named.nwk --out new => (--sequences FILE)
inspect --table table.biom --tree cut.nwk => truncated
inspect --table table.biom --tree t.nex => NEXUS
inspect --table table.biom --tree bare.nwk => lengths
inspect --table fractions.tsv => raw reads
inspect --table empty.tsv => no reads
inspect --table metadata.tsv => metadata.tsv
inspect --table files => not a store
inspect --table torn => aam cache store
train --table torn --target age --out new => aam cache store
inspect --table r.tsv --metadata metadata.tsv => would match
inspect --table table.biom --metadata short.tsv => data.missing=drop
train --table table.biom --metadata short.tsv --target age --groups subject --out new => data.missing=drop
cache store --table table.biom --metadata short.tsv --out new => data.missing=drop
inspect --table table.biom --metadata commas.tsv => tab
cache store --out new => --table FILE
cache store --table table.biom => --out
train {files} --target age --groups subject data.format=x --out new => data.format
train {files} --out new => --target COLUMN
train {files} --target agee --out new => Did you mean 'age'
train --table table.biom --target age --out new => --metadata FILE
train {files} --target age --out new => --groups subject, or --independent
evaluate {files} --target age --out new => --groups subject, or --independent
evaluate {files} --target age --groups subjct --out new => 'subject'
inspect {files} --target agee => agee
inspect --table table.biom --target age => --metadata FILE
inspect {files} --target age --groups nobody => nobody
inspect {files} --where 'agee > 3' => agee
inspect {files} --where 'age >' => condition
inspect {files} --where 'age > 10000' => No sample
inspect --table table.biom --where 'age > 3' => --metadata
train {good} --depth 100000000 => depth
train {good} data.split=nowhere => data.split
evaluate {good} data.split=site data.leave_out=site => Choose one|choose one
train {good} data.covariates=moon => moon
train {good} data.covariates=age => to be predicted
train {good} data.task=classification => classes
train {good} target.weights=site => site
train {files} --target site --groups subject data.task=regression --out new => site
train {good} optim.stepz=3 => Did you mean 'steps'
train {good} optim.steps=many => optim.steps
train {good} optim.steps=-1 => optim.steps
train grand {good} => recipe
train small {good} more => neither
train {good} loss.metric=bray => loss.metric
train {good} loss.distance=1 => --tree FILE
train {good} augment.mix=phylomix => --tree FILE|pip install
train {good} model.linear=branches => --tree FILE
train {good} loss.metric=precomputed => data.distances
train {as_is} data.distances=few.npz => no distances
train {as_is} data.distances=objects.npz => objects of Python
train {good} data.corpus=store => --metadata and --tree|choose one|both given
train {good} run.start=nowhere => nowhere
train {good} model.width=30 => model.width
train {good} optim.freeze=true optim.freeze_layers=99 => freeze
train {files} --target age --groups subject => --out
train {files} --target age --independent --out run => --overwrite.*--resume
train {files} --target age --groups subject --out files --overwrite => another --out
train {good} --resume => Leave out --resume
train {files} --target ph --groups subject --out run --resume => another --out
pretrain --table table.biom --out run => --overwrite
cache store --table table.biom --out files => another folder|another --out
predict --bundle absent --table table.biom --out p.tsv => absent
predict --bundle store --table table.biom --out p.tsv => not a bundle
predict {bundle} --table table.biom --out p.tsv => --metadata FILE
predict {bundle} --table table.biom --metadata short.tsv --out p.tsv => no row
predict {bundle} {files} --out named.tsv => --overwrite
predict {bundle} {files} --samples ids.txt --out p.tsv => nobody
predict {bundle} --table table.biom --samples absent.txt --out p.tsv => absent.txt
predict {bundle} {files} --passes 3 --out p.tsv => out --passes
predict {bundle} --table files --out p.tsv => aam cache store
embed {bundle} --table table.biom --level gene --out e.npz => level
embed --bundle absent --table table.biom --out e.npz => absent
recipe smal => small
"""


def mistakes():
    "Pairs of a command line and what is expected."
    for o in LINES.strip().splitlines():
        for short, long in SHORT.items(): o = o.replace(short, long)
        yield tuple(o.split(" => "))


MISTAKES = dict(mistakes())


@cache
def functions():
    "Names of functions of the package that are no words and no settings."
    return {k for k, o in public().items() if "_" in k and callable(o)} - set(metrics)


@cache
def options(name):
    "The flags of a command, and whether it takes keys."
    params = commands()[name].params
    return {o for p in params for o in p.opts if o.startswith("--")}, any(p.name == "words" for p in params)


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_named_in_the_words_of_its_command(there, words):
    done = run(there, words)
    said = done.stdout + done.stderr
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit), said
    assert re.search(MISTAKES[words], said, re.DOTALL), said
    check(words, said)


def check(words, said):
    "Refuse Python, functions of the package, and what this command does not have."
    name = next(o for o in sorted(commands(), key=len, reverse=True) if words.startswith(o))
    flags, keys = options(name)
    for o in set(re.findall(r"--[a-z][\w-]*", said)):
        assert o in flags, f"{name} has no {o}: {said}"
    for o in set(re.findall(r"\b[a-z]+\.[a-z_]+(?==)", said)):
        assert keys and o in all_keys() or not KEY.match(o + "="), f"{name} cannot set {o}: {said}"
    plain = re.sub(r"\b[a-z_]+\.\w+=\S+", "", said)
    assert not (found := PYTHON.search(plain)), f"{found[0]!r}: {said}"
    assert not (found := functions() & set(re.findall(r"\w+", plain))), f"{found}: {said}"


def test_findings_of_an_inspection_are_in_the_words_of_the_command(there):
    done = run(there, "inspect --table table.biom --metadata metadata.tsv --target age")
    assert done.exit_code == 0 and "--groups subject" in done.stdout
    check("inspect", done.stdout + done.stderr)


def test_the_check_sees_python():
    for said in ("Pass missing='drop'.", "Give sequences=....", "Make one with build_store.",
                 "Set resume=True.", "Pass --groups subject."):
        with pytest.raises(AssertionError): check("predict", said)
    with pytest.raises(AssertionError): check("predict", "Write data.missing=drop.")
    check("train", "Write data.missing=drop, or --groups subject.")
