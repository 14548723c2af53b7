"""On how many processes and machines the stages run, as a part of a pipeline's spec. Torch-free."""

from typing import Literal

from nanochat_core.spec_base import Spec, runtime_field


class LaunchSpec(Spec):
    """Processes and machines."""

    nproc_per_node: int | None = runtime_field(
        None, ge=1, description="ranks on this node; empty: one for each GPU, one without"
    )
    threads_per_rank: int | None = runtime_field(None, ge=1, description="CPU threads of a rank; empty: cores / ranks")
    mode: Literal["local", "multinode"] = runtime_field(
        "local", description="local: this machine; multinode: also machines on which `nanochat join` runs"
    )
    nnodes: int = runtime_field(1, ge=1, description="machines, this one included (multinode)")
    rdzv_endpoint: str | None = runtime_field(
        None, description="host:port of this machine, where the others reach it; the port is free (multinode)"
    )
    device: Literal["cuda", "mps", "cpu"] | None = runtime_field(
        None, description="device to compute on; empty: the best that is there"
    )
    retries: int = runtime_field(
        3, ge=0, le=100, description="times a stage is started again after a lost node, a pre-emption or a stall"
    )
    retry_seconds: float = runtime_field(
        10.0, ge=0, description="seconds before the first retry; three times as long before each further one"
    )
    shard_tasks: Literal["threads", "processes", "dask"] = runtime_field(
        "threads", description="where shards are fetched and tokenised; dask: on a cluster (extra nanochat[dask])"
    )
    shard_workers: int | None = runtime_field(
        None, ge=1, le=256, description="shards that are worked on at a time; empty: one for each core, 8 at most"
    )
    dask_address: str | None = runtime_field(
        None, description="address of a cluster's scheduler, tcp://host:8786; empty: a cluster on this machine (dask)"
    )
    gpu_hour_dollars: float = runtime_field(3.0, ge=0, description="dollars for a GPU hour, for the cost estimate")

    def conflicts(self) -> list[str]:
        """Return every combination of values that cannot work, each as field: reason.

        >>> LaunchSpec(mode="multinode", nnodes=2, rdzv_endpoint="head:29500").conflicts()
        []
        >>> LaunchSpec(nnodes=2).conflicts()
        ["launch.nnodes: 2 machines need launch.mode 'multinode'"]
        """
        return [*self._machine_conflicts(), *self._shard_conflicts()]

    def _shard_conflicts(self) -> list[str]:
        if self.dask_address and self.shard_tasks != "dask":
            return [
                f"launch.dask_address: leave it empty, or set launch.shard_tasks to 'dask' (is {self.shard_tasks!r})"
            ]
        if self.dask_address and self.shard_workers:
            return ["launch.shard_workers: leave it empty, the cluster of launch.dask_address has workers of its own"]
        return []

    def _machine_conflicts(self) -> list[str]:
        problems = []
        if self.mode == "local":
            if self.nnodes > 1:
                problems.append(f"launch.nnodes: {self.nnodes} machines need launch.mode 'multinode'")
            if self.rdzv_endpoint:
                problems.append("launch.rdzv_endpoint: leave it empty, or set launch.mode to 'multinode'")
            return problems
        if self.nnodes == 1:
            problems.append("launch.nnodes: 'multinode' needs the number of machines, this one included")
        host, _, port = (self.rdzv_endpoint or "").rpartition(":")
        if not (host and port.isdigit() and 0 < int(port) < 65536):
            problems.append(
                f"launch.rdzv_endpoint: {self.rdzv_endpoint!r} is no host:port; name this machine as the others "
                "reach it, and a free port, for example node0:29500"
            )
        return problems
