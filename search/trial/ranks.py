"""What ranks share that train one network together: gradients, losses, statistics of batch norms, and the word of rank 0.

The parts of an update are those of `train.accumulate`, whoever takes them: on a CPU all of it is added in the order of the
parts, so that any number of ranks trains the same network, bit by bit. Between two steps all ranks wait for the word of rank 0, so
that a wish to stop, a pruner's or the end of a training finds none of them inside of a collective call.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from timm.task import TrainingTask

_GO, _HALT, _SETTLE = range(3)


class Ranks:
    """One process alone, in the words of a group.

    Attributes:
        rank, world: which of how many.
        averages: whether the gradients of the ranks are averaged, not added.
    """

    rank, world = 0, 1
    averages = False

    def parts(self, count: int) -> range:
        """Which of `count` parts of an update this rank takes, in the order in which it does."""
        return range(self.rank, count, self.world)

    def gathered(self, mine: Tensor) -> Sequence[Tensor]:
        """What each rank has, in their order; of one shape and type."""
        return [mine]

    def halts(self, wished: Callable[[], bool] = lambda: False) -> bool:
        """Whether to stop before the next step, as rank 0 wishes; its peers wait here while it evaluates or writes."""
        return wished()

    def end_epoch(self, model: nn.Module) -> None:
        """Raise RuntimeError where the ranks hold different buffers: a layer learns what is not shared."""


class Group(Ranks):
    """One of several processes; made by all of them at once.

    Args:
        device: of this rank.
        meeting: file by which they find each other, which is new.
    """

    def __init__(self, rank: int, world: int, device: torch.device, meeting: Path) -> None:
        self.rank, self.world, self._device = rank, world, device
        self.averages = device.type == "cuda"  # by DDP itself, while the backward pass goes on; NCCL keeps no order
        self.at_rest, self._halted = True, False  # whether all wait for rank 0's word, or have had the last
        # all are on this machine, whose name need not resolve, and nobody else is to reach them
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if os.uname().sysname == "Darwin" else "lo")
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=dist.FileStore(str(meeting), world),
            rank=rank,
            world_size=world,
            timeout=timedelta(days=1),  # rank 0 may evaluate for long, or wait for a storage; deaths are seen otherwise
        )

    def gathered(self, mine: Tensor) -> Sequence[Tensor]:
        """As `Ranks.gathered`."""
        found = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(found, mine)
        return found

    def from_first(self, value: bytes) -> bytes:
        """What rank 0 has."""
        size = torch.tensor(len(value))
        dist.broadcast(size, 0)
        empty = torch.empty(int(size), dtype=torch.uint8)
        data = torch.frombuffer(bytearray(value), dtype=torch.uint8) if self.rank == 0 else empty
        dist.broadcast(data, 0)
        return data.numpy().tobytes()

    def wrap(self, training: TrainingTask) -> None:
        """Let the gradients of `training` be those of all ranks.

        Raises:
            ValueError: its task does not take part.
        """
        devices = [self._device] if self._device.type == "cuda" else None
        known = inspect.signature(DistributedDataParallel).parameters
        never = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # until torch 2.12
        training.prepare_distributed(device_ids=devices, **{never: False})  # `Statistics` shares them
        network = training.get_trainable_module()
        if not isinstance(network, DistributedDataParallel):
            raise ValueError(
                f"ranks={self.world}: {type(training).__name__}.prepare_distributed() does not wrap its network in torch's "
                "DistributedDataParallel, so its ranks would not train together; take ranks=1"
            )
        if not self.averages:
            network.register_comm_hook(None, lambda _, bucket: _added_in_order(bucket))

    def halts(self, wished: Callable[[], bool] = lambda: False) -> bool:
        """As `Ranks.halts`."""
        self.at_rest = True
        word = self._word((_HALT if wished() else _GO) if self.rank == 0 else _GO)
        while word == _SETTLE:
            self._settled()
            word = self._word(_GO)
        self._halted = word == _HALT
        self.at_rest = self._halted
        return self._halted

    def settle(self) -> None:
        """Wait until all ranks have done what they were asked to; rank 0 alone, where all are at rest."""
        self._word(_SETTLE)
        self._settled()

    def dismiss(self) -> None:
        """The last word of rank 0, where all are at rest; its peers wait for it."""
        if not self._halted:
            self.halts(lambda: True)

    def end_epoch(self, model: nn.Module) -> None:
        """As `Ranks.end_epoch`; from here to the next step rank 0 does what its peers wait for."""
        named = [(name, buffer) for name, buffer in model.named_buffers() if buffer.numel()]
        if named:
            mine = torch.stack([buffer.detach().double().sum() for _, buffer in named])
            for other in self.gathered(mine):
                differ = ~torch.isclose(mine, other, rtol=0, atol=0, equal_nan=True)
                if bool(differ.any()):
                    name = named[int(differ.nonzero()[0])][0]
                    raise RuntimeError(
                        f"ranks={self.world}: the ranks hold different {name}: of what layers keep beside weights, only the "
                        "running statistics of batch norms are shared; take ranks=1"
                    )
        self.at_rest = True

    def _word(self, mine: int) -> int:
        word = torch.tensor(mine)
        dist.broadcast(word, 0)
        return int(word)

    def _settled(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        dist.all_reduce(torch.zeros(1))  # a barrier of NCCL's would be one of the accelerators


def _added_in_order(bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """DDP's hook: the gradients of all ranks, added in the order of the ranks, whereas a ring adds in any."""
    mine = bucket.buffer()
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    work: Any = dist.all_gather(found, mine, async_op=True)

    def add(_: object) -> Tensor:
        total, *others = found
        for other in others:
            total += other
        return total

    future: torch.futures.Future[Tensor] = work.get_future().then(add)
    return future


class Statistics:
    """The running statistics of batch norms while an update has several parts: each part counts, in their order.

    A part's own statistics are taken down, at momentum 1, and go into the running ones behind it: the same arithmetic
    whichever rank took the part. Torch's `SyncBatchNorm` needs no help: it sees the parts of all ranks at once.
    """

    def __init__(self, model: nn.Module) -> None:
        self._norms = [
            norm
            for norm in model.modules()
            if isinstance(norm, _BatchNorm)
            and not isinstance(norm, nn.SyncBatchNorm)
            and norm.running_mean is not None
            and norm.momentum is not None
        ]
        self._buffers: list[Any] = [each for norm in self._norms for each in (norm.running_mean, norm.running_var)]
        self._counts: list[Any] = [norm.num_batches_tracked for norm in self._norms]
        self._momenta = [norm.momentum for norm in self._norms]

    @contextlib.contextmanager
    def of_an_update(self, world: int) -> Iterator[None]:
        """A block in which the parts of an update go through the network."""
        if not self._norms:
            yield
            return
        self._running = torch.cat(self.seen())
        weights = [torch.full_like(norm.running_mean, norm.momentum) for norm in self._norms for _ in range(2)]  # type: ignore[arg-type]
        self._weights = torch.cat(weights)
        before = torch.stack(self._counts)
        for norm in self._norms:
            norm.momentum = 1.0
        try:
            yield
        finally:
            for norm, momentum in zip(self._norms, self._momenta, strict=True):
                norm.momentum = momentum
        for buffer, value in zip(self._buffers, self._running.split([len(b) for b in self._buffers]), strict=True):
            buffer.copy_(value)
        if world > 1:  # the parts of the others
            more = (torch.stack(self._counts) - before) * (world - 1)
            for count, others in zip(self._counts, more.unbind(), strict=True):
                count += others

    def seen(self) -> list[Tensor]:
        """The statistics of the last part."""
        return self._buffers

    def count(self, seen: Tensor) -> None:
        """Let the statistics of a part, all in one, go into the running ones."""
        if self._norms:
            self._running.lerp_(seen, self._weights)
