"""Starts, watches and stops a Bailiwick cluster on loopback; called by deploy/local-cluster.

What it keeps in the cluster's folder:

    cluster.json     the nodes as they run: names, roles, pids, listeners, URLs (the contract of ARCHITECTURE.md);
                     there while the cluster is up
    topology.json    the ports, kept for good, so that a cluster comes back under the addresses its tokens name
    hosts.json       only if somebody put it there: {NODE: {"address": IP, "run": [COMMAND...]}} runs a node elsewhere,
                     such as in a network namespace; tests do
    config/, log/    one TOML file and one log per node
    keys/            the master key that seals every node's secrets (beside the data, never in it), and join tokens
    data/            one folder per node

`up` starts whatever of the cluster is not running, so it also repairs a cluster of which a node was killed, and lets
nodes join that are not members yet. The first control plane founds the cluster; every other node joins with a token of
its own. A pid is signalled only if that process still runs with this cluster's files in its command line: pids are
reused. Standard library only, Python 3.9 or later, Linux.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pathlib
import secrets
import shlex
import shutil
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
# Odd: an even number of voters tolerates no more failures than one less.
CONTROL_PLANES = [1, 3, 5]
MASTER_KEY_BYTES = 32
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


def read_json(path, otherwise):
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return otherwise


def numbered(role, count, known):
    """`count` nodes of a role: those there were, then the lowest free numbers."""
    there = sorted(int(name.rpartition("-")[2]) for name in known if name.startswith(role + "-"))
    free = (number for number in range(1, count + len(there) + 1) if number not in there)
    while len(there) < count:
        there.append(next(free))
    return [(f"{role}-{number}", role, number - 1) for number in sorted(there)[:count]]


def plan(options, folder, running):
    """The nodes in the order of starting, with the ports they had before, if they were there before."""
    topology = read_json(folder / "topology.json", None)
    known, kind = {}, options.ports or "default"
    if topology and (running or options.ports in (None, topology["ports"])):
        known, kind = topology["listen"], topology["ports"]
    had = {role: sum(name.startswith(role + "-") for name in known) for role in ("control-plane", "data-plane")}
    control_planes = options.control_planes or had["control-plane"] or 1
    data_planes = options.data_planes or had["data-plane"] or 2
    if control_planes < had["control-plane"]:
        fail("a control plane is a member until it is removed: 'local-cluster remove NAME'", 2)
    if running and data_planes < had["data-plane"]:
        fail(f"the cluster in {folder} runs with {had['data-plane']} data planes; stop it first ('local-cluster down')")
    wanted = [("nats", "nats", 0), *numbered("control-plane", control_planes, known), ("ledger", "ledger", 0)]
    wanted += numbered("data-plane", data_planes, known)
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
            node = {"name": name, "role": role, "ports": ports, "address": host.get("address", "127.0.0.1")}
            node["run"] = host.get("run", [])
            nodes.append(node)
    keep_topology(folder, kind, {**known, **{node["name"]: node["ports"] for node in nodes}})
    return nodes


def keep_topology(folder, kind, ports):
    write(folder / "topology.json", json.dumps({"ports": kind, "listen": ports}, indent=2) + "\n")


def of_role(nodes, role):
    return [node for node in nodes if node["role"] == role]


def named(nodes, name):
    return next(node for node in nodes if node["name"] == name)


def url(node, listener, scheme="http"):
    return f"{scheme}://{listen(node, listener)}"


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
    return f"{node['address']}:{node['ports'][listener]}"


def master_key_file(folder):
    return folder / "keys" / "master.key"


def join_token_file(node, folder):
    return folder / "keys" / f"{node['name']}.join-token"


def make_master_key(folder):
    path = master_key_file(folder)
    if not path.exists():
        write_secret(path, secrets.token_hex(MASTER_KEY_BYTES) + "\n")


def write_secret(path, text):
    partial = path.with_name(path.name + ".partial")
    with contextlib.suppress(FileNotFoundError):
        partial.unlink()
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)


def config_of(node, nodes, folder):
    control_planes = of_role(nodes, "control-plane")
    apis = [url(other, "grpc", "https") for other in control_planes if other is not node]
    joining = {}
    if join_token_file(node, folder).exists():
        joining["join_token_file"] = str(join_token_file(node, folder))
    section = {
        "control-plane": lambda: {
            "node": node["name"],
            "listen": listen(node, "grpc") if node["address"] == "127.0.0.1" else f"0.0.0.0:{node['ports']['grpc']}",
            "http_listen": listen(node, "http"),
            "peer_listen": listen(node, "peer"),
            "ops_listen": listen(node, "ops"),
            "advertise_api": url(node, "grpc", "https"),
            "advertise_peer": listen(node, "peer"),
            "issuer": url(control_planes[0], "http"),
            "mcp_url": url(of_role(nodes, "data-plane")[0], "mcp") + "/mcp",
            **({"join": apis} if joining else {}),
            **({} if node["address"] == "127.0.0.1" else {"danger_listen_beyond_loopback": True}),
        },
        "data-plane": lambda: {
            "node": node["name"],
            "listen": listen(node, "mcp"),
            "ops_listen": listen(node, "ops"),
            "control_plane": apis,
            "drain_ms": DRAIN_MILLISECONDS,
        },
        "ledger": lambda: {
            "listen": listen(node, "http"),
            "ops_listen": listen(node, "ops"),
            "control_plane": apis,
        },
    }[node["role"]]()
    own = {"data_dir": str(folder / "data" / node["name"]), **section, **joining}
    nats = {"url": url(named(nodes, "nats"), "client", "nats"), "stream_bytes_max": 1 << 30}
    master_key = {"file": str(master_key_file(folder))}
    return toml({"nats": nats, "master_key": master_key, node["role"].replace("-", "_"): own})


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
        address = ["--addr", node["address"], "--port", str(ports["client"]), "--http_port", str(ports["monitor"])]
        arguments = ["--config", config_file(node, folder), *address, "--store_dir", store]
        return [*node["run"], os.environ["NATS_SERVER"], *arguments]
    return [*node["run"], program(), node["role"], "--config", config_file(node, folder)]


def bailiwick(node, *arguments):
    """Runs the program beside a control plane, where its plain loopback listener can be reached."""
    line = [*node["run"], program(), "--admin", admin_of(node), *arguments]
    return subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def admin_of(node):
    return f"http://127.0.0.1:{node['ports']['grpc']}"


def runs(node, folder):
    """Whether the node's pid is alive and still is this cluster's node."""
    try:
        stat = pathlib.Path(f"/proc/{node['pid']}/stat").read_text()
        arguments = pathlib.Path(f"/proc/{node['pid']}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (KeyError, OSError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z" and config_file(node, folder) in arguments


def write_config(node, nodes, folder):
    (folder / "data" / node["name"]).mkdir(parents=True, exist_ok=True)
    if node["role"] == "nats":
        text = (REPOSITORY / "deploy" / "nats" / "loopback.conf").read_text()
    else:
        text = config_of(node, nodes, folder)
    write(pathlib.Path(config_file(node, folder)), text)


def start(node, nodes, folder):
    busy = [port for port in node["ports"].values() if node["address"] == "127.0.0.1" and not can_bind(port)]
    if busy:
        fail(f"{node['name']} cannot start: port {', '.join(map(str, busy))} is in use (--ports free takes others)")
    write_config(node, nodes, folder)
    line = command(node, folder)
    with open(folder / "log" / (node["name"] + ".log"), "ab") as log:
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    node["pid"] = process.pid
    return process


def ready(node):
    path = "/healthz?js-server-only=true" if node["role"] == "nats" else "/readyz"
    port = node["ports"]["monitor" if node["role"] == "nats" else "ops"]
    try:
        with urllib.request.urlopen(f"http://{node['address']}:{port}{path}", timeout=2) as answer:
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


# Members: how a cluster is founded, and how nodes join it.


def is_member(node, folder):
    """Whether its folder holds an identity; a node without one needs a join token."""
    return any((folder / "data" / node["name"]).glob("**/identity*"))


def found(node, nodes, folder):
    write_config(node, nodes, folder)
    line = [*node["run"], program(), "cluster", "init", "--config", config_file(node, folder)]
    founded = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if founded.returncode != 0:
        fail(f"{node['name']} could not found the cluster: {(founded.stderr or founded.stdout).strip()}")


def members(nodes, folder):
    """What `cluster members` says at the first control plane that answers."""
    for node in of_role(nodes, "control-plane"):
        if runs(node, folder):
            answer = bailiwick(node, "cluster", "members", "-o", "json")
            if answer.returncode == 0:
                return json.loads(answer.stdout)["items"]
    return []


def fetch_join_token(node, nodes, folder):
    said = "no control plane runs"
    for control_plane in of_role(nodes, "control-plane"):
        if control_plane is node or not runs(control_plane, folder):
            continue
        answer = bailiwick(control_plane, "cluster", "join-token", node["role"], "--name", node["name"], "-o", "json")
        if answer.returncode == 0:
            write_secret(join_token_file(node, folder), json.loads(answer.stdout)["token"] + "\n")
            return
        said = answer.stderr.strip()
    fail(f"no join token for {node['name']}: {said}")


def wait_voters(nodes, folder):
    """Every control plane votes: from here on the cluster outlives the loss of a minority."""
    wanted = {node["name"] for node in of_role(nodes, "control-plane")}
    deadline = time.monotonic() + READY_SECONDS_MAX
    while True:
        found_members = of_role(members(nodes, folder), "control-plane")
        voters = {member["name"] for member in found_members if member["membership"] == "voter"}
        if wanted <= voters and any(member["leader"] for member in found_members):
            return
        if time.monotonic() > deadline:
            fail(f"not voting after {READY_SECONDS_MAX} s: {', '.join(sorted(wanted - voters)) or 'nobody leads'}")
        time.sleep(0.05)


# cluster.json and the commands.


def read_cluster(folder):
    cluster = read_json(folder / "cluster.json", None)
    for node in cluster["nodes"] if cluster else []:
        node["ports"] = {name: int(address.rpartition(":")[2]) for name, address in node["listen"].items()}
        node["address"] = next(iter(node["listen"].values())).rpartition(":")[0]
        node.setdefault("run", [])
    return cluster


def write_cluster(nodes, folder):
    described = [
        {
            "name": node["name"],
            "role": node["role"],
            "pid": node.get("pid"),
            "listen": {listener: listen(node, listener) for listener in node["ports"]},
            **({"run": node["run"]} if node["run"] else {}),
        }
        for node in nodes
    ]
    admins = [admin_of(node) for node in of_role(nodes, "control-plane")]
    cluster = {
        "nodes": described,
        "admin": admins[0],
        "admins": admins,
        "mcp": [url(node, "mcp") + "/mcp" for node in of_role(nodes, "data-plane")],
        "ledger": url(named(nodes, "ledger"), "http"),
        "nats": url(named(nodes, "nats"), "client", "nats"),
    }
    write(folder / "cluster.json", json.dumps(cluster, indent=2) + "\n")
    return cluster


def start_missing(nodes, all_nodes, folder):
    """Starts those of `nodes` that do not run, all at once, and waits until every one is ready."""
    started = []
    for node in nodes:
        process = None
        if not runs(node, folder):
            process = start(node, all_nodes, folder)
            write_cluster(all_nodes, folder)
        started.append((node, process))
    for node, process in started:
        wait_ready(node, process, folder)
        say(f"  {node['name']}: {'ready' if process else 'was ready already'} (pid {node['pid']})")


def start_control_planes(nodes, folder):
    control_planes = of_role(nodes, "control-plane")
    if not any(is_member(node, folder) for node in control_planes):
        found(control_planes[0], nodes, folder)
    # Members first, and together: a majority of them has to run before any of them is ready.
    start_missing([node for node in control_planes if is_member(node, folder)], nodes, folder)
    start_joining([node for node in control_planes if not is_member(node, folder)], nodes, folder)
    wait_voters(nodes, folder)


def start_joining(nodes, all_nodes, folder):
    for node in nodes:
        if not runs(node, folder):
            fetch_join_token(node, all_nodes, folder)
    start_missing(nodes, all_nodes, folder)
    for node in nodes:
        with contextlib.suppress(FileNotFoundError):
            join_token_file(node, folder).unlink()


def up(options, folder):
    if options.control_planes not in (None, *CONTROL_PLANES):
        fail(f"--control-planes takes {', '.join(map(str, CONTROL_PLANES))}", 2)
    if options.data_planes is not None and not 1 <= options.data_planes <= DATA_PLANES_MAX:
        fail(f"--data-planes takes 1 to {DATA_PLANES_MAX}", 2)
    for name in ("config", "log", "keys", "data"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "keys").chmod(0o700)
    make_master_key(folder)
    before = [node for node in (read_cluster(folder) or {"nodes": []})["nodes"] if runs(node, folder)]
    nodes = plan(options, folder, bool(before))
    for node in before:
        named(nodes, node["name"])["pid"] = node["pid"]
    start_missing(of_role(nodes, "nats"), nodes, folder)
    start_control_planes(nodes, folder)
    for role in ("ledger", "data-plane"):
        start_missing([node for node in of_role(nodes, role) if is_member(node, folder)], nodes, folder)
        start_joining([node for node in of_role(nodes, role) if not is_member(node, folder)], nodes, folder)
    cluster = write_cluster(nodes, folder)
    admins = ",".join(cluster["admins"])
    print(f"cluster.json  {folder / 'cluster.json'}")
    print(f"admin         {cluster['admin']}    export BAILIWICK_ADMIN={shlex.quote(admins)}")
    for mcp in cluster["mcp"]:
        print(f"mcp           {mcp}/{{virtual-server}}")
    print(f"ledger        {cluster['ledger']}")
    print(f"nats          {cluster['nats']}")


def status(_options, folder):
    cluster = read_cluster(folder)
    if cluster is None:
        print(f"no cluster is up in {folder}")
        sys.exit(1)
    known = {member["name"]: member for member in members(cluster["nodes"], folder)}
    all_ready = True
    for node in cluster["nodes"]:
        is_ready, why = ready(node) if runs(node, folder) else (False, "not running")
        all_ready &= is_ready
        where = "  ".join(f"{listener}={address}" for listener, address in node["listen"].items())
        member = known.get(node["name"], {})
        part = "leader" if member.get("leader") else member.get("membership", "")
        print(f"{node['name']:<16} pid {node['pid']!s:<8} {part:<8} {'ready' if is_ready else why:<12} {where}")
    sys.exit(0 if all_ready else 1)


def remove(options, folder):
    """Ends a control plane's or data plane's membership, its process and its data."""
    cluster = read_cluster(folder)
    if cluster is None or options.node not in [node["name"] for node in cluster["nodes"]]:
        fail(f"no node {options.node} runs in {folder}")
    nodes, node = cluster["nodes"], named(cluster["nodes"], options.node)
    if node["role"] not in ("control-plane", "data-plane") or len(of_role(nodes, node["role"])) == 1:
        fail(f"the cluster needs its {options.node}", 2)
    rest = [other for other in nodes if other is not node]
    said = "no control plane runs"
    for control_plane in of_role(rest, "control-plane"):
        answer = bailiwick(control_plane, "cluster", "remove", options.node)
        if answer.returncode == 0:
            break
        said = answer.stderr.strip()
    else:
        fail(f"{options.node} was not removed: {said}")
    stop(node, folder)
    shutil.rmtree(folder / "data" / options.node, ignore_errors=True)
    topology = read_json(folder / "topology.json", None)
    topology["listen"].pop(options.node, None)
    keep_topology(folder, topology["ports"], topology["listen"])
    write_cluster(rest, folder)


def down(_options, folder):
    cluster = read_cluster(folder)
    if cluster is None:
        say(f"no cluster is up in {folder}")
        return
    for role in reversed(START_ORDER):
        for node in of_role(cluster["nodes"], role):
            stop(node, folder)
    (folder / "cluster.json").unlink()


def main():
    parser = argparse.ArgumentParser(prog="local-cluster", description="A Bailiwick cluster on loopback")
    default_folder = REPOSITORY / ".bailiwick" / "local-cluster"
    parser.add_argument("--data", type=pathlib.Path, default=default_folder, help="the cluster's folder")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run in (("up", up), ("status", status), ("remove", remove), ("down", down)):
        command_parser = commands.add_parser(name)
        command_parser.set_defaults(run=run)
        command_parser.add_argument("--data", type=pathlib.Path, default=argparse.SUPPRESS)
        if name == "up":
            command_parser.add_argument("--control-planes", type=int, help="1, 3 or 5; default 1, or as many as there were")
            command_parser.add_argument("--data-planes", type=int, help="default 2, or as many as there were")
            command_parser.add_argument("--ports", choices=["default", "free"], help="default, or as they were")
        if name == "remove":
            command_parser.add_argument("node", help="a control plane or data plane of the cluster")
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
