"Metadata, conditions, recipes and overrides, altered: read or refused, and quick whatever their size."
import time

import numpy as np
import pandas as pd
import pytest
from fuzzing import altered, fuzz, sizes

from aam_nb.core import AamError
from aam_nb.data.metadata import read_metadata
from aam_nb.data.where import select
from aam_nb.data.written import as_texts, is_number, merged_texts
from aam_nb.recipe import load_config, recipes

METADATA = ("#SampleID\tage\tsite\tsubject\n#q2:types\tnumeric\tcategorical\t\n"
            "S1\t3.5\tgut\t1.10\nS2\tnot collected\t\"left hand\"\t1.1\n1.10\t1e2\tgut\t007\n").encode()
WORDS = [b"#q2:types", b"numeric", b"NA", b"\t\t", b"id", b"1e400", b"9"*5000, b"0"*5000 + b"1", b"1,5", b'"']
FRAME = pd.DataFrame(dict(age=[1., 2., np.nan], site=["gut", "left hand", None], code=["1", "01", "2"]))
WHERE = b"age > 1 and (site == gut or not code in ('1', \"01\")) and age != 2.0"
RECIPE = (recipes/"small.toml").read_bytes() + b'\n[target.ph]\nloss = "huber"\nbounds = [0, 14]\n'
TOML = [b"a."*500, b"["*500, b"{a="*300, b"9"*5000, b"0x" + b"f"*5000, b"1e400", b"nan", b"'''", b"[data]",
        b"1979-05-27", b"[[data]]", b"target = 'a, b/c'", b"\\u0000", b"[target.data]", b"true", b"-0"]
OVERRIDES = (b"data.target='a, b'|data.covariates=diet, x/y|target.loss=mse, \"p=h\"=huber|"
             b"target.bounds=ph=0:14|run.seed=7")


def read_all(path):
    "Metadata with the text of every column."
    for _, column in read_metadata(path).items(): as_texts(column), merged_texts(column)


def some_file(data, name, words):
    def make(rng, folder):
        (folder/name).write_bytes(altered(data, rng, words))
        return folder/name
    return make


def some_text(data, words):
    return lambda rng, folder: altered(data, rng, words).decode("utf-8", "replace")


@sizes
def test_metadata(tmp_path, n): fuzz(read_all, some_file(METADATA, "m.tsv", WORDS), tmp_path, n)


@sizes
def test_conditions(tmp_path, n):
    words = [b" and ", b" or ", b"not ", b"in (", b"=="] + [b"(", b")", b"'", b"age", b"9"*5000]
    fuzz(lambda text: select(FRAME, text, []), some_text(WHERE, words), tmp_path, n)


@sizes
def test_recipes(tmp_path, n): fuzz(load_config, some_file(RECIPE, "r.toml", TOML), tmp_path, n)


@sizes
def test_overrides(tmp_path, n):
    def read(text): load_config(None, text.split("|"), columns_of=lambda data: ["a, b", "x/y"])
    fuzz(read, some_text(OVERRIDES, [b"=", b".", b",", *TOML]), tmp_path, n)


def refused(read, *args):
    with pytest.raises(AamError) as e: read(*args)
    assert len(str(e.value)) < 2000


@pytest.fixture
def quick():
    begun = time.perf_counter()
    yield
    assert time.perf_counter() - begun < 5


@pytest.mark.usefixtures("quick")
def test_conditions_of_many_terms():
    frame = pd.DataFrame(dict(site=[f"s{i}" for i in range(2000)], age=np.arange(2000.)))
    either = " or ".join(f"site == s{i % 1000}" for i in range(30_000))
    assert select(frame, either).sum() == 1000
    assert select(frame, f"site in ({', '.join(f's{i % 1000}' for i in range(30_000))})").sum() == 1000
    assert select(frame, " and ".join(["age >= 5"]*30_000)).sum() == 1995
    refused(select, frame, "not "*30_000 + "age == 1")
    refused(select, frame, "("*30_000)
    refused(select, frame, either + " or")
    refused(select, frame, "age == " + "9"*5000)
    refused(select, frame, "site == " + "x"*5000)
    refused(select, frame, "x"*5000 + " == 1")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("text", [
    "a."*200_000 + "a = 1", "[" + "a."*200_000 + "a]", "[data]\n" + "x."*200_000 + "y = 1",
    "a = " + "["*100_000,
    "a = " + "{a = "*100_000, f"[optim]\nsteps = {'9'*5000}", f"[optim]\nlr = 0x{'f'*5000}",
    f"[optim]\nlr = {'9'*400}", "[data]\ntarget = " + "["*200 + "]"*200, '"a"."b".'*100_000 + "c = 1",
])
def test_recipes_beyond_reason(tmp_path, text):
    (tmp_path/"r.toml").write_text(text)
    refused(load_config, tmp_path/"r.toml")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("text", [
    "a."*200_000 + "b=1", "optim.steps=" + "9"*4000, "optim.steps=" + "["*100_000,
    "target." + "x."*1000 + "loss=mse",
])
def test_overrides_beyond_reason(text):
    with pytest.raises(AamError): load_config(None, (text,))


def test_numbers_of_many_digits_are_cells_like_others(tmp_path):
    (tmp_path/"m.tsv").write_text(f"id\ta\tb\nS1\t{'9'*5000}\t0.{'1'*5000}\nS2\t1\t2\n")
    m = read_metadata(tmp_path/"m.tsv")
    assert m["a"].dtype != np.float64 and list(as_texts(m["b"])) == ["0." + "1"*5000, "2"]
    assert select(m, "b == 2").tolist() == [False, True]


@pytest.mark.usefixtures("quick")
def test_long_digits_take_linear_time():
    for text in ("9"*1_000_000, "1." + "0"*1_000_000, "1e" + "9"*1_000_000): assert not is_number(text + "x")
    assert is_number("0"*1_000_000 + "7") and not is_number("9"*1_000_000)
