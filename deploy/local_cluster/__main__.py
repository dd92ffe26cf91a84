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
import pathlib
import shlex
import shutil
import sys

from configs import REPOSITORY, join_token_file, make_master_key
from files import fail, read_json, say, write
from membership import fetch_join_token, found, is_member, members, wait_voters
from processes import bailiwick, ready, runs, start, stop, wait_ready
from topology import CONTROL_PLANES, DATA_PLANES_MAX, admin_of, keep_topology, listen, named, of_role, plan, url

# What depends on a node stops before it: who needs whom is the order of starting.
START_ORDER = ["nats", "control-plane", "ledger", "data-plane"]


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
    stop([node], folder)
    shutil.rmtree(folder / "data" / options.node, ignore_errors=True)
    topology = read_json(folder / "topology.json", None)
    topology["listen"].pop(options.node, None)
    removed = [*topology.get("removed", []), options.node]
    keep_topology(folder, topology["ports"], topology["listen"], removed)
    write_cluster(rest, folder)


def down(_options, folder):
    cluster = read_cluster(folder)
    if cluster is None:
        say(f"no cluster is up in {folder}")
        return
    for role in reversed(START_ORDER):
        stop(of_role(cluster["nodes"], role), folder)
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
            command_parser.add_argument("--control-planes", type=int, help="1, 3 or 5; default 1, or as before")
            command_parser.add_argument("--data-planes", type=int, help="default 2, or as before")
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
