"""Latency tables of machines that exist in the tests alone."""

from __future__ import annotations

from qcompress.groups import Groups
from qcompress.latency_table import DeviceFacts, LatencyTable
from qcompress.profiling import Jobs

NOWHERE = DeviceFacts(processor="none", system="none", onnxruntime="0")


def table_of(jobs: Jobs, times: list[float | None], device: DeviceFacts = NOWHERE) -> LatencyTable:
    return LatencyTable(**dict(jobs.plan), device=device, times_ns=tuple(times))


def of_plain_costs(jobs: Jobs, groups: Groups, device: DeviceFacts = NOWHERE) -> LatencyTable:
    """Of a machine that takes 2 ns for a pair of channels of a layer, 20 and 30 for light convolutions, 20 for the rest."""
    plan = jobs.plan
    times: list[float | None] = [50.0] * len(jobs.models)
    for carrier in plan.carriers:
        times[carrier.twice] = 80.0
    for shape in plan.shapes:
        light = 20.0 * bool(shape.before) + 30.0 * bool(shape.after)
        for i, row in zip(shape.inputs, shape.jobs, strict=True):
            for o, job in zip(shape.outputs, row, strict=True):
                times[job] = light + 2 * i * o
    for operation in plan.operations:
        times[operation.job] = 20.0 * len(operation.before) + 30.0 * len(operation.after)
    layers = {layer.name: layer for layer in groups.layers}
    for network in plan.networks:
        kept = [
            (
                groups.kept_channels(layers[t.name], "in", network.pruned),
                groups.kept_channels(layers[t.name], "out", network.pruned),
            )
            for t in plan.layers
        ]
        times[network.job] = 20.0 + sum(2.0 * i * o for i, o in kept)
    return table_of(jobs, times, device)
