"Models that are shared out on CPUs, which Accelerate does on GPUs only: what the tests of shards share."
import torch
import torch._dynamo  # noqa: F401  FSDP2 loads it; loaded here, the processes of a test have it already
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import CPUOffloadPolicy

from aam_nb.sections import RunConfig
from aam_nb.training.shard import is_shared
from aam_nb.training.shard_plan import offloads, shard_plugin


def on_cpu(**run):
    "An accelerator that makes shards on CPUs; further settings of the run by name."
    accelerator = Accelerator(cpu=True)
    accelerator.state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    plugin = shard_plugin(RunConfig(shard="fsdp", **run), {})
    if offloads(plugin): plugin.cpu_offload = CPUOffloadPolicy(pin_memory=False) # Pinned memory needs a GPU
    accelerator.state.fsdp_plugin = plugin
    return accelerator


def full(x):
    "The whole of what is shared out, and anything else as it is."
    return x.full_tensor() if is_shared(x) else x


def apart(a, b):
    "The largest difference between tensors side by side; infinite where one is absent."
    pairs = list(zip(a, b, strict=True))
    if any((x is None) != (y is None) for x, y in pairs): return float("inf")
    return max(float((full(x) - y).abs().max()) for x, y in pairs if x is not None and x.numel())


def gradients(model):
    "The gradients of all parameters, None where there is none."
    return [p.grad for p in model.parameters()]


def averaged(model, world):
    "Divide the gradients of a model by a number of processes."
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None: p.grad /= world
    return model
