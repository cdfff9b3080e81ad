"""A loopback server that speaks enough of D-Wave's solver API for the real client: solvers, problems, uploads, faults.

Written from the API's behaviour as the client expects it. Problems are solved at once by `MockDWaveSampler` (structured) or by
local samplers (hybrid).
"""

from __future__ import annotations

import base64
import json
import socket
import struct
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dimod
import numpy as np
from dwave.cloud.testing import mocks  # type: ignore[import-untyped]
from dwave.samplers import SimulatedAnnealingSampler
from dwave.system.testing import MockDWaveSampler  # type: ignore[import-untyped]

Json = Any
_TYPE = "application/vnd.dwave.sapi.{}+json; version=3.0.0"
WHEN = "2026-01-01T00:00:00.000000Z"


def annealer(kind: str = "pegasus", m: int = 4, **properties: Any) -> dict[str, Any]:
    """A QPU of topology `kind` and size `m`."""
    make = {"pegasus": mocks.qpu_pegasus_solver_data, "zephyr": mocks.qpu_zephyr_solver_data}[kind]
    parameters = dict.fromkeys(("num_reads", "annealing_time", "label", "auto_scale", "answer_mode"), "")
    description: dict[str, Any] = make(
        m, problem_timing_data=mocks.qpu_problem_timing_data(), h_range=[-4.0, 4.0], extended_j_range=[-2.0, 1.0], **properties
    )
    description["properties"]["parameters"] = parameters
    return description


def hybrids() -> list[dict[str, Any]]:
    """Hybrid solvers of binary quadratic and of constrained models."""
    return [mocks.hybrid_bqm_solver_data(), mocks.hybrid_cqm_solver_data()]


@dataclass
class Fault:
    """What goes wrong at the next `times` requests of `method` whose path begins with `path`.

    what    an HTTP status, "reset" (the connection), "truncate" (the body), "garble" (the samples), "cancel", "fail", "slow"
    """

    method: str
    path: str
    what: int | str
    times: int = 1
    text: str = "no"


@dataclass
class Cloud:
    """The state of the server: what it offers, what was asked of it, what is to go wrong."""

    solvers: list[dict[str, Any]]
    token: str = "the-right-token"
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    problems: dict[str, Json] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    jobs: list[Json] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, method: str, path: str) -> Fault | None:
        """The next fault for this request, used up."""
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and path.startswith(fault.path):
                    fault.times -= 1
                    return fault
        return None

    def submit(self, job: Json, fault: Fault | None) -> Json:
        """Solves the job and remembers its answer; what a client is told at first."""
        with self.lock:
            self.jobs.append(job)
            number = f"problem-{len(self.jobs)}"
        status = {"id": number, "type": job["type"], "solver": job["solver"], "label": job.get("label"), "submitted_on": WHEN}
        what = fault.what if fault else ""
        if what in ("cancel", "fail"):
            return {**status, "status": {"cancel": "CANCELLED", "fail": "FAILED"}[str(what)], "solved_on": WHEN}
        answer = self.answer(job)
        if what == "garble":
            answer["solutions"] = answer["solutions"][: len(answer["solutions"]) // 8 * 4]
        done = {**status, "status": "COMPLETED", "solved_on": WHEN, "answer": answer}
        self.problems[number] = {"waits": 3 if what == "slow" else 0, "done": done}
        return {**status, "status": "PENDING"}

    def poll(self, number: str) -> Json:
        """The status of a problem: pending for a while if it is a slow one."""
        problem = self.problems[number]
        if problem["waits"]:
            problem["waits"] -= 1
            return {k: v for k, v in problem["done"].items() if k not in ("answer", "solved_on")} | {"status": "IN_PROGRESS"}
        return {key: value for key, value in problem["done"].items() if key != "answer"}

    def answer(self, job: Json) -> Json:
        """By a local sampler."""
        if job["type"] in ("ising", "qubo"):
            solver = next(s for s in self.solvers if s["identity"]["name"] == job["solver"]["name"])
            return _structured(job, solver["properties"])
        return _hybrid(job, self.uploads[job["data"]["data"]])


def _structured(job: Json, properties: Mapping[str, Any]) -> Json:
    qubits, couplers = properties["qubits"], properties["couplers"]
    lin = np.frombuffer(base64.b64decode(job["data"]["lin"]), "<f8")
    active = {q for q, bias in zip(qubits, lin, strict=True) if not np.isnan(bias)}
    edges = [(u, v) for u, v in couplers if u in active and v in active]
    quad = np.frombuffer(base64.b64decode(job["data"]["quad"]), "<f8")
    h = {q: float(bias) for q, bias in zip(qubits, lin, strict=True) if q in active}
    model = dimod.BQM.from_ising(h, dict(zip(edges, quad.tolist(), strict=True)))
    assert max(map(abs, h.values()), default=0) <= 4 + 1e-9, "h out of range"
    assert np.abs(quad).max(initial=0) <= 2 + 1e-9, "J out of range"
    sampler = MockDWaveSampler(
        nodelist=list(qubits),
        edgelist=[tuple(edge) for edge in couplers],
        properties={"topology": properties["topology"]},
        parameter_warnings=False,
        substitute_sampler=SimulatedAnnealingSampler(),  # type: ignore[no-untyped-call]
        substitute_kwargs={"num_sweeps": 50, "seed": 1},
    )
    reads = job["params"].get("num_reads", 1)
    found = sampler.sample(model, num_reads=reads, answer_mode="raw")
    order = sorted(active)
    bits = (found.record.sample[:, [found.variables.index(q) for q in order]] > 0).astype(np.uint8)
    return {
        "format": "qp",
        "active_variables": _packed(np.array(order, "<i4")),
        "energies": _packed(np.asarray(found.record.energy, "<f8")),
        "num_occurrences": _packed(np.asarray(found.record.num_occurrences, "<i4")),
        "solutions": _packed(np.packbits(bits, axis=1)),
        "num_variables": properties["num_qubits"],
        "timing": {"qpu_access_time": 15000.0 + 100.0 * reads, "qpu_sampling_time": 100.0 * reads},
    }


def _hybrid(job: Json, data: bytes) -> Json:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        if job["type"] == "bqm":
            model = dimod.BQM.from_file(file)
            found = SimulatedAnnealingSampler().sample(model, num_reads=1, num_sweeps=300, seed=1)  # type: ignore[no-untyped-call]
        else:
            found = _constrained(dimod.CQM.from_file(file))
    found.info.update(run_time=3_000_000, charge_time=3_000_000, qpu_access_time=40_000)
    return {"format": "bq", "data": found.to_serializable()}  # type: ignore[no-untyped-call]


def _constrained(model: dimod.ConstrainedQuadraticModel) -> dimod.SampleSet:
    """Annealing of the model with its constraints as penalties: good enough to be feasible on small ones."""
    if len(model.variables) <= 14:
        every: dimod.SampleSet = dimod.ExactCQMSolver().sample_cqm(model)  # type: ignore[no-untyped-call]
        feasible: dimod.SampleSet = every.filter(lambda row: row.is_feasible)
        return feasible
    if len(model.variables) > 500:  # the penalty of a count couples everything: random states, as a bad solver's
        rng = np.random.default_rng(1)
        rows = rng.integers(0, 2, (3, len(model.variables)))
        random: dimod.SampleSet = dimod.SampleSet.from_samples_cqm((rows, list(model.variables)), model)  # type: ignore[no-untyped-call]
        return random
    bqm, invert = dimod.cqm_to_bqm(model, lagrange_multiplier=4.0)
    sampler = SimulatedAnnealingSampler()  # type: ignore[no-untyped-call]
    found = sampler.sample(bqm, num_reads=20, num_sweeps=500, seed=1)
    states = [invert(dict(zip(found.variables, row, strict=True))) for row in found.record.sample.tolist()]
    best: dimod.SampleSet = dimod.SampleSet.from_samples_cqm(states, model)  # type: ignore[no-untyped-call]
    return best


def _packed(array: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cloud: Cloud

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._chunks()
        if self.headers.get("Content-Encoding") == "deflate":
            body = zlib.decompress(body)
        url = urlsplit(self.path)
        path = url.path.removeprefix("/sapi/v2/").strip("/")
        self.cloud.requests.append((self.command, path))
        if self.headers.get("X-Auth-Token") != self.cloud.token:
            self._send(401, "problems", {"error_code": 401, "error_msg": "Invalid token"})
            return
        fault = self.cloud.fault(self.command, path)
        if fault and isinstance(fault.what, int):
            self._send(fault.what, "problems", {"error_code": fault.what, "error_msg": fault.text})
        elif fault and fault.what == "reset":
            linger = struct.pack("ii", 1, 0)  # close by RST, not FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.close()
        else:
            kind, answer = self._answer(path, parse_qs(url.query), body, fault)
            self._send(200 if answer is not None else 404, kind, answer, cut=bool(fault and fault.what == "truncate"))

    def _chunks(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, path: str, query: Mapping[str, list[str]], body: bytes, fault: Fault | None) -> tuple[str, Json]:
        cloud = self.cloud
        match (self.command, *path.split("/")):
            case ("GET", "solvers", "remote"):
                return "solver-definition-list", cloud.solvers
            case ("GET", "solvers", "remote", name):
                return "solver-definition", next((s for s in cloud.solvers if s["identity"]["name"] == name), None)
            case ("POST", "problems"):
                return "problems", [cloud.submit(job, fault) for job in json.loads(body)]
            case ("GET", "problems"):
                return "problems", [cloud.poll(number) for number in query["id"][0].split(",")]
            case ("GET", "problems", number):
                return "problem", cloud.problems[number]["done"]
            case ("POST", "bqm", "multipart"):
                number = f"upload-{len(cloud.uploads) + 1}"
                cloud.uploads[number] = b""
                return "problems", {"id": number}
            case ("PUT", "bqm", "multipart", number, "part", _):
                cloud.uploads[number] += body
                return "problems", {}
            case ("GET", "bqm", "multipart", number, "status"):
                data = cloud.uploads[number]
                parts = [{"part_number": 1, "checksum": md5(data).hexdigest()}] if data else []
                return "problems", {"status": "UPLOAD_IN_PROGRESS", "parts": parts}
            case ("POST", "bqm", "multipart", _, "combine"):
                return "problems", {}
        return "problems", None

    def _send(self, code: int, kind: str, answer: Json, *, cut: bool = False) -> None:
        body = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", _TYPE.format(kind))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True


@contextmanager
def serving(solvers: list[dict[str, Any]], connect: Callable[[str, str], None]) -> Iterator[Cloud]:
    """A running server; `connect` is told its endpoint and a token before the block begins."""
    cloud = Cloud(solvers)
    handler = type("Handler", (_Handler,), {"cloud": cloud})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        cloud.url = f"http://127.0.0.1:{server.server_port}/sapi/v2/"
        connect(cloud.url, cloud.token)
        try:
            yield cloud
        finally:
            server.shutdown()
            thread.join()
