"""Starts, watches and stops a Bailiwick cluster on loopback; called by deploy/local-cluster.

What it keeps in the cluster's folder:

    cluster.json     the nodes as they run: names, roles, pids, listeners, URLs (the contract of ARCHITECTURE.md);
                     there while the cluster is up
    topology.json    the ports, kept for good, so that a cluster comes back under the addresses its tokens name
    config/, log/    one TOML file and one log per node
    data/            one folder per node

`up` starts whatever of the cluster is not running, so it also repairs a cluster of which a node was killed. A pid is
signalled only if that process still runs with this cluster's files in its command line: pids are reused. Standard
library only, Python 3.9 or later, Linux.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
READY_SECONDS_MAX = 60
STOP_SECONDS_MAX = 20  # more than the nodes' own drain_ms below
DRAIN_MILLISECONDS = 5_000
DATA_PLANES_MAX = 16
# Free ports are taken below Linux's ephemeral range, so that no outgoing connection can snatch one in between.
FREE_PORTS = range(20_000, 32_000)
# What depends on a node stops before it: who needs whom is the order of starting.
START_ORDER = ["nats", "control-plane", "ledger", "data-plane"]


def say(text):
    print(text, file=sys.stderr, flush=True)


def fail(text, status=1):
    say(f"local-cluster: {text}")
    sys.exit(status)


# Topology: which nodes there are and where they listen.


def default_ports(role, number):
    if role == "data-plane":
        base = 8420 + 2 * number if number < 5 else 8450 + 2 * (number - 5)
        return {"mcp": base, "ops": base + 1}
    return {
        "nats": {"client": 4222, "monitor": 8222},
        "control-plane": {"http": 8430, "grpc": 8431, "ops": 8433},
        "ledger": {"http": 8440, "ops": 8441},
    }[role]


def can_bind(port):
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
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


def plan(options, folder):
    """The nodes in the order of starting, with the ports they had before, if they were there before."""
    wanted = [("nats", "nats", 0), ("control-plane", "control-plane", 0), ("ledger", "ledger", 0)]
    known, kind = {}, options.ports or "default"
    with contextlib.suppress(FileNotFoundError):
        topology = json.loads((folder / "topology.json").read_text())
        if options.ports in (None, topology["ports"]):
            known, kind = topology["listen"], topology["ports"]
    data_planes = options.data_planes or sum(name.startswith("data-plane-") for name in known) or 2
    wanted += [(f"data-plane-{number + 1}", "data-plane", number) for number in range(data_planes)]
    nodes = []
    with free_ports() as take:
        for name, role, number in wanted:
            ports = known.get(name) or default_ports(role, number)
            if name not in known and kind == "free":
                ports = {listener: take() for listener in ports}
            nodes.append({"name": name, "role": role, "ports": ports})
    topology = {"ports": kind, "listen": {node["name"]: node["ports"] for node in nodes}}
    write(folder / "topology.json", json.dumps(topology, indent=2) + "\n")
    return nodes


def url(nodes, name, listener, scheme="http"):
    ports = next(node["ports"] for node in nodes if node["name"] == name)
    return f"{scheme}://127.0.0.1:{ports[listener]}"


def write(path, text):
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


# Configuration files.


def toml(sections):
    lines = []
    for section, keys in sections.items():
        lines.append(f"[{section}]")
        # A JSON string or number is a TOML one as well.
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        lines.append("")
    return "\n".join(lines)


def listen(node, listener):
    return f"127.0.0.1:{node['ports'][listener]}"


def config_of(node, nodes, folder):
    data_dir = str(folder / "data" / node["name"])
    grpc = url(nodes, "control-plane", "grpc")
    section = {
        "control-plane": lambda: {
            "data_dir": data_dir,
            "listen": listen(node, "grpc"),
            "http_listen": listen(node, "http"),
            "ops_listen": listen(node, "ops"),
            "issuer": url(nodes, "control-plane", "http"),
            "mcp_url": url(nodes, "data-plane-1", "mcp") + "/mcp",
        },
        "data-plane": lambda: {
            "data_dir": data_dir,
            "node": node["name"],
            "listen": listen(node, "mcp"),
            "ops_listen": listen(node, "ops"),
            "control_plane": grpc,
            "drain_ms": DRAIN_MILLISECONDS,
        },
        "ledger": lambda: {
            "data_dir": data_dir,
            "listen": listen(node, "http"),
            "ops_listen": listen(node, "ops"),
            "control_plane": grpc,
        },
    }[node["role"]]()
    nats = {"url": url(nodes, "nats", "client", "nats"), "stream_bytes_max": 1 << 30}
    return toml({"nats": nats, node["role"].replace("-", "_"): section})


# Processes.


def program():
    named = os.environ.get("BAILIWICK_BIN")
    places = [named] if named else [REPOSITORY / "target" / kind / "bailiwick" for kind in ("release", "debug")]
    for place in map(pathlib.Path, places):
        if place.is_file():
            return str(place.resolve())
    fail(f"no program at {' or '.join(map(str, places))}: run 'cargo build -p bailiwick', or set BAILIWICK_BIN")


def config_file(node, folder):
    return str(folder / "config" / (node["name"] + (".conf" if node["role"] == "nats" else ".toml")))


def command(node, folder):
    if node["role"] == "nats":
        ports = node["ports"]
        store = str(folder / "data" / "nats")
        address = ["--addr", "127.0.0.1", "--port", str(ports["client"]), "--http_port", str(ports["monitor"])]
        return [os.environ["NATS_SERVER"], "--config", config_file(node, folder), *address, "--store_dir", store]
    return [program(), node["role"], "--config", config_file(node, folder)]


def runs(node, folder):
    """Whether the node's pid is alive and still is this cluster's node."""
    try:
        stat = pathlib.Path(f"/proc/{node['pid']}/stat").read_text()
        arguments = pathlib.Path(f"/proc/{node['pid']}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (KeyError, OSError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z" and config_file(node, folder) in arguments


def start(node, nodes, folder):
    busy = [port for port in node["ports"].values() if not can_bind(port)]
    if busy:
        fail(f"{node['name']} cannot start: port {', '.join(map(str, busy))} is in use (--ports free takes others)")
    (folder / "data" / node["name"]).mkdir(parents=True, exist_ok=True)
    if node["role"] == "nats":
        write(pathlib.Path(config_file(node, folder)), (REPOSITORY / "deploy" / "nats" / "loopback.conf").read_text())
    else:
        write(pathlib.Path(config_file(node, folder)), config_of(node, nodes, folder))
    line = command(node, folder)
    with open(folder / "log" / (node["name"] + ".log"), "ab") as log:
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    node["pid"] = process.pid
    return process


def ready(node):
    path = "/healthz?js-server-only=true" if node["role"] == "nats" else "/readyz"
    port = node["ports"]["monitor" if node["role"] == "nats" else "ops"]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return answer.status == 200, ""
    except urllib.error.HTTPError as answer:
        return False, answer.read().decode(errors="replace").strip().replace("\n", "; ")
    except OSError as error:
        return False, str(error)


def wait_ready(node, process, folder):
    log = folder / "log" / (node["name"] + ".log")
    deadline = time.monotonic() + READY_SECONDS_MAX
    while True:
        is_ready, why = ready(node)
        if is_ready:
            return
        if process is not None and process.poll() is not None:
            why = f"it ended with status {process.returncode}"
        elif time.monotonic() < deadline:
            time.sleep(0.05)
            continue
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        fail(f"{node['name']} did not become ready: {why} ('local-cluster down' stops the rest)\nthe end of {log}:\n{tail}")


def stop(node, folder):
    if not runs(node, folder):
        say(f"  {node['name']}: was not running")
        return
    os.kill(node["pid"], signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS_MAX
    while runs(node, folder):
        if time.monotonic() > deadline:
            say(f"  {node['name']}: still there after {STOP_SECONDS_MAX} s, killing it (pid {node['pid']})")
            with contextlib.suppress(ProcessLookupError):
                os.kill(node["pid"], signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.05)
    say(f"  {node['name']}: stopped")


# cluster.json and the three commands.


def read_cluster(folder):
    try:
        cluster = json.loads((folder / "cluster.json").read_text())
    except FileNotFoundError:
        return None
    for node in cluster["nodes"]:
        node["ports"] = {name: int(address.rpartition(":")[2]) for name, address in node["listen"].items()}
    return cluster


def write_cluster(nodes, folder):
    described = [
        {
            "name": node["name"],
            "role": node["role"],
            "pid": node.get("pid"),
            "listen": {listener: listen(node, listener) for listener in node["ports"]},
        }
        for node in nodes
    ]
    cluster = {
        "nodes": described,
        "admin": url(nodes, "control-plane", "grpc"),
        "mcp": [url(nodes, node["name"], "mcp") + "/mcp" for node in nodes if node["role"] == "data-plane"],
        "ledger": url(nodes, "ledger", "http"),
        "nats": url(nodes, "nats", "client", "nats"),
    }
    write(folder / "cluster.json", json.dumps(cluster, indent=2) + "\n")
    return cluster


def running_nodes(options, folder, cluster):
    """The nodes to be up, those of a running cluster with their pids."""
    if cluster is None or not any(runs(node, folder) for node in cluster["nodes"]):
        return plan(options, folder)
    nodes = cluster["nodes"]
    data_planes = sum(node["role"] == "data-plane" for node in nodes)
    if options.data_planes not in (None, data_planes):
        fail(f"the cluster in {folder} runs with {data_planes} data planes; stop it first ('local-cluster down')")
    return nodes


def up(options, folder):
    if options.control_planes != 1:
        fail("one control plane for now: a cluster of control-plane nodes comes with the next release", 2)
    if options.data_planes is not None and not 1 <= options.data_planes <= DATA_PLANES_MAX:
        fail(f"--data-planes takes 1 to {DATA_PLANES_MAX}", 2)
    for name in ("config", "log", "data"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    nodes = running_nodes(options, folder, read_cluster(folder))
    for role in START_ORDER:
        started = []
        for node in (node for node in nodes if node["role"] == role):
            process = None
            if not runs(node, folder):
                process = start(node, nodes, folder)
                write_cluster(nodes, folder)
            started.append((node, process))
        for node, process in started:
            wait_ready(node, process, folder)
            say(f"  {node['name']}: {'ready' if process else 'was ready already'} (pid {node['pid']})")
    cluster = write_cluster(nodes, folder)
    print(f"cluster.json  {folder / 'cluster.json'}")
    print(f"admin         {cluster['admin']}    export BAILIWICK_ADMIN={shlex.quote(cluster['admin'])}")
    for mcp in cluster["mcp"]:
        print(f"mcp           {mcp}/{{virtual-server}}")
    print(f"ledger        {cluster['ledger']}")
    print(f"nats          {cluster['nats']}")


def status(_options, folder):
    cluster = read_cluster(folder)
    if cluster is None:
        print(f"no cluster is up in {folder}")
        sys.exit(1)
    all_ready = True
    for node in cluster["nodes"]:
        is_ready, why = ready(node) if runs(node, folder) else (False, "not running")
        all_ready &= is_ready
        where = "  ".join(f"{listener}={address}" for listener, address in node["listen"].items())
        print(f"{node['name']:<16} pid {node['pid']!s:<8} {'ready' if is_ready else why:<12} {where}")
    sys.exit(0 if all_ready else 1)


def down(_options, folder):
    cluster = read_cluster(folder)
    if cluster is None:
        say(f"no cluster is up in {folder}")
        return
    for role in reversed(START_ORDER):
        for node in (node for node in cluster["nodes"] if node["role"] == role):
            stop(node, folder)
    (folder / "cluster.json").unlink()


def main():
    parser = argparse.ArgumentParser(prog="local-cluster", description="A Bailiwick cluster on loopback")
    default_folder = REPOSITORY / ".bailiwick" / "local-cluster"
    parser.add_argument("--data", type=pathlib.Path, default=default_folder, help="the cluster's folder")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run in (("up", up), ("status", status), ("down", down)):
        command_parser = commands.add_parser(name)
        command_parser.set_defaults(run=run)
        command_parser.add_argument("--data", type=pathlib.Path, default=argparse.SUPPRESS)
        if name == "up":
            command_parser.add_argument("--control-planes", type=int, default=1)
            command_parser.add_argument("--data-planes", type=int, help="default 2, or as many as there were")
            command_parser.add_argument("--ports", choices=["default", "free"], help="default, or as they were")
    options = parser.parse_args()

    folder = options.data.resolve()
    if options.command != "up" and not folder.is_dir():
        return options.run(options, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        if options.command != "status":
            fcntl.flock(lock, fcntl.LOCK_EX)
        options.run(options, folder)


main()
