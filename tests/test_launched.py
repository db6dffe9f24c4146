"How many processes there are, by what launchers leave in the environment."
import pytest

from aam_nb.core import AamError
from aam_nb.training.parallel import check_share, launched

TORCHRUN = dict(WORLD_SIZE="4", RANK="3", LOCAL_RANK="1", MASTER_ADDR="node1", MASTER_PORT="29500")
ACCELERATE = dict(ACCELERATE_MIXED_PRECISION="no", ACCELERATE_USE_CPU="True")
MEETING = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")


@pytest.mark.parametrize("environ, wanted", [
    ({}, 1), (dict(WORLD_SIZE=""), 1), (dict(WORLD_SIZE="1"), 1), (TORCHRUN, 4), (TORCHRUN | ACCELERATE, 4),
    (ACCELERATE, 1), (MEETING, 1), (dict(PMI_SIZE="1"), 1), (TORCHRUN | dict(PMI_SIZE="2"), 4)])
def test_the_number_of_processes_is_that_of_the_launcher(environ, wanted):
    assert launched(environ) == wanted


def test_accelerate_that_starts_one_process_of_several_is_caught():
    "As `accelerate launch --cpu --num_processes 2` does; it sets what is listed here, and no number."
    with pytest.raises(AamError, match="several processes and has started one.*torchrun"):
        launched(ACCELERATE | MEETING)


@pytest.mark.parametrize("name", ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"])
def test_processes_of_mpi_are_sent_to_torchrun(name):
    with pytest.raises(AamError, match="by MPI, without the address"): launched({name: "2"})


def test_a_process_must_know_which_one_it_is():
    with pytest.raises(AamError, match="2 processes were launched, but RANK"): launched(dict(WORLD_SIZE="2"))


def test_each_process_needs_a_device_or_the_cpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    check_share("cuda", 2)
    check_share("cpu", 64)
    with pytest.raises(AamError, match="3 processes were started on this machine, which has 2 cuda devices"):
        check_share("cuda", 3)
