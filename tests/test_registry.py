"Registries: names that are known, taken or misspelt, and records that are there for a while."
import subprocess
import sys
from types import SimpleNamespace

import pytest

from aam_nb import registry
from aam_nb.core import AamError
from aam_nb.registry import metrics, Registry, registered


class Record(SimpleNamespace):
    "A record of this test."


def of(*names):
    "A registry with records of some names."
    found = Registry("thing", home="aam_nb.core")
    for o in names: found.add(Record(name=o))
    return found


def test_a_registry_is_a_mapping_in_the_order_of_registration():
    things = of("b", "a")
    assert list(things) == ["b", "a"] and len(things) == 2 and "a" in things and "c" not in things
    assert things["a"].name == "a" and dict(things) == {"b": things["b"], "a": things["a"]}
    with pytest.raises(AamError, match="There is no thing 'aa'; wanted one of b, a."): things["aa"]


def test_a_name_is_taken_once():
    things = of("a")
    with pytest.raises(AamError, match="named 'a' already"): things.add(Record(name="a"))
    things.add(SimpleNamespace(name="a"))
    assert type(things["a"]) is SimpleNamespace, "a page run as a notebook defines its records once more"


def test_records_for_a_while_leave_no_trace():
    things = of("a")
    first = things["a"]
    with registered(things, Record(name="b"), SimpleNamespace(name="a")): assert list(things) == ["a", "b"]
    assert dict(things) == {"a": first}
    with pytest.raises(RuntimeError), registered(things, Record(name="b")): raise RuntimeError
    both = Record(name="b"), Record(name="a")
    with pytest.raises(AamError, match="already"), registered(things, *both): pass
    assert dict(things) == {"a": first}


def test_built_in_records_are_known_at_the_first_question_and_not_before():
    code = ("import sys\nfrom aam_nb.registry import metrics\nbefore = metrics.home in sys.modules\n"
            "print(before, 'unweighted' in metrics)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
    assert metrics["unweighted"].name == "unweighted"


@pytest.mark.parametrize("name", [
    "metrics", "table_formats", "augmentations", "sample_encoders", "trackers", "baselines"])
def test_every_registry_opens_its_home(name):
    for key, record in getattr(registry, name).items(): assert record.name == key
