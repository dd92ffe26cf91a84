"""Which nodes a cluster has and where they listen; kept in topology.json."""

import contextlib
import fcntl
import itertools
import json
import os
import pathlib
import socket
import tempfile

from files import fail, read_json, write

DATA_PLANES_MAX = 16
# Odd: an even number of voters tolerates no more failures than one less.
CONTROL_PLANES = [1, 3, 5]
# Free ports are taken below Linux's ephemeral range, so that no outgoing connection can snatch one in between.
FREE_PORTS = range(20_000, 32_000)
LOOPBACK = "127.0.0.1"


def default_ports(role, number):
    if role == "data-plane":
        base = 8420 + 2 * number if number < 5 else 8450 + 2 * (number - 5)
        return {"mcp": base, "ops": base + 1}
    if role == "control-plane":
        base = 8430 if number == 0 else 8520 + 10 * number
        return {"http": base, "grpc": base + 1, "peer": base + 2, "ops": base + 3}
    return {"nats": {"client": 4222, "monitor": 8222}, "ledger": {"http": 8440, "ops": 8441}}[role]


def can_bind(port):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with contextlib.closing(socket.socket(type=kind)) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                return False
    return True


@contextlib.contextmanager
def free_ports():
    """A stream of free ports. Clusters that start at the same time get different ones: all take them from one
    counter, kept in the temporary folder."""
    counter = pathlib.Path(tempfile.gettempdir()) / f"bailiwick-free-port-{os.getuid()}"
    with open(counter, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        last = int(file.read() or FREE_PORTS.start)
        ports = (FREE_PORTS[(last + step - FREE_PORTS.start) % len(FREE_PORTS)] for step in range(1, len(FREE_PORTS)))
        used = [last]

        def take():
            used.append(next(port for port in ports if can_bind(port)))
            return used[-1]

        yield take
        file.truncate(0)
        file.write(str(used[-1]))


def numbered(role, count, known, removed):
    """`count` nodes of a role: those there were, then the lowest free numbers. The name of one that was removed is not
    given again, as its id is not."""
    def numbers(names):
        return sorted(int(name.rpartition("-")[2]) for name in names if name.startswith(role + "-"))

    there = numbers(known)
    free = (number for number in itertools.count(1) if number not in numbers([*known, *removed]))
    there += itertools.islice(free, max(0, count - len(there)))
    return [(f"{role}-{number}", role, number - 1) for number in sorted(there)[:count]]


def plan(options, folder, running):
    """The nodes in the order of starting, with the ports they had before, if they were there before."""
    topology = read_json(folder / "topology.json", None)
    known, removed, kind = {}, [], options.ports or "default"
    if topology and (running or options.ports in (None, topology["ports"])):
        known, removed, kind = topology["listen"], topology.get("removed", []), topology["ports"]
    had = {role: sum(name.startswith(role + "-") for name in known) for role in ("control-plane", "data-plane")}
    control_planes = options.control_planes or had["control-plane"] or 1
    data_planes = options.data_planes or had["data-plane"] or 2
    if control_planes < had["control-plane"]:
        fail("a control plane is a member until it is removed: 'local-cluster remove NAME'", 2)
    if running and data_planes < had["data-plane"]:
        fail(f"the cluster in {folder} runs with {had['data-plane']} data planes; stop it first ('local-cluster down')")
    wanted = [("nats", "nats", 0), *numbered("control-plane", control_planes, known, removed), ("ledger", "ledger", 0)]
    wanted += numbered("data-plane", data_planes, known, removed)
    hosts = read_json(folder / "hosts.json", {})
    nodes = []
    with free_ports() as take:
        for name, role, number in wanted:
            had_ports = known.get(name, {})
            ports = {
                listener: had_ports.get(listener) or (take() if kind == "free" else port)
                for listener, port in default_ports(role, number).items()
            }
            host = hosts.get(name, {})
            node = {"name": name, "role": role, "ports": ports, "address": host.get("address", LOOPBACK)}
            node["run"] = host.get("run", [])
            nodes.append(node)
    keep_topology(folder, kind, {**known, **{node["name"]: node["ports"] for node in nodes}}, removed)
    return nodes


def keep_topology(folder, kind, ports, removed):
    topology = {"ports": kind, "listen": ports, "removed": removed}
    write(folder / "topology.json", json.dumps(topology, indent=2) + "\n")


def of_role(nodes, role):
    return [node for node in nodes if node["role"] == role]


def named(nodes, name):
    return next(node for node in nodes if node["name"] == name)


def url(node, listener, scheme="http"):
    return f"{scheme}://{listen(node, listener)}"


def listen(node, listener):
    return f"{node['address']}:{node['ports'][listener]}"


def admin_of(node):
    return f"http://127.0.0.1:{node['ports']['grpc']}"
