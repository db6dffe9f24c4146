"""16S microbiome samples in, honest predictions out. Names below are imported when they are first used."""
import sys
from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

_HOME = dict( # Where each name for notebooks is defined
    AamError="core", Study="types", Table="types", load_config="recipe",
    read_table="data.table", read_metadata="data.metadata", read_tree="data.tree",
    read_distances="data.distance_files", make_study="data.study", simulate="data.simulate",
    load_bundle="inference.bundle", save_bundle="inference.bundle",
    inspect="runs.notebook", evaluate="runs.notebook", train="runs.notebook", predict="runs.notebook")

__all__ = [*_HOME]


def __getattr__(name):
    if name not in _HOME: raise AttributeError(f"module 'aam_nb' has no attribute {name!r}")
    found = getattr(import_module(f"aam_nb.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__(): return sorted({*globals(), *_HOME})


class _Package(ModuleType):
    "The package, on which `train` is the function, also after its module of that name was imported."
    def __setattr__(self, name, value):
        if name in _HOME and isinstance(value, ModuleType): return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
