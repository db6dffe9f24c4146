"What all tests share: where the project and the real studies are, and how hypothesis draws."
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TQDM_DISABLE", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/"tools"))

# Times vary on a busy machine, so no example has a deadline; the draws are the same in every run, so a
# failure is found again.
settings.register_profile("aam", deadline=None, derandomize=True, max_examples=50,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("aam")


@pytest.fixture(scope="session")
def root():
    "The project's folder."
    return ROOT


@pytest.fixture(scope="session")
def data_dir():
    "Real studies: the folder AAM_DATA, or ../shared/data beside the project. Tests skip where it is absent."
    folder = Path(os.environ.get("AAM_DATA") or ROOT.parent/"shared/data")
    if not folder.is_absolute(): folder = ROOT/folder
    if not folder.is_dir(): pytest.skip(f"no real data in {folder}; set AAM_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def few_extra_trees():
    "A run fits extra trees for its stack in every fold; 300 of them would take most of the time of a test."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aam_nb.stack.members.EXTRA", 8)
        yield
