"""Processes: started, watched and stopped. A pid is signalled only if it still is the cluster's: pids are reused."""

import contextlib
import os
import pathlib
import signal
import subprocess
import time
import urllib.error
import urllib.request

from configs import REPOSITORY, config_file, write_config
from files import fail, say
from topology import LOOPBACK, admin_of, can_bind

READY_SECONDS_MAX = 60
STOP_SECONDS_MAX = 20  # more than the nodes' own drain time


def program():
    named = os.environ.get("BAILIWICK_BIN")
    places = [named] if named else [REPOSITORY / "target" / kind / "bailiwick" for kind in ("release", "debug")]
    for place in map(pathlib.Path, places):
        if place.is_file():
            return str(place.resolve())
    fail(f"no program at {' or '.join(map(str, places))}: run 'cargo build -p bailiwick', or set BAILIWICK_BIN")


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


def runs(node, folder):
    """Whether the node's pid is alive and still is this cluster's node."""
    try:
        stat = pathlib.Path(f"/proc/{node['pid']}/stat").read_text()
        arguments = pathlib.Path(f"/proc/{node['pid']}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (KeyError, OSError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z" and config_file(node, folder) in arguments


def start(node, nodes, folder):
    busy = [port for port in node["ports"].values() if node["address"] == LOOPBACK and not can_bind(port)]
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
    address = LOOPBACK if node["role"] == "nats" else node["address"]
    try:
        with urllib.request.urlopen(f"http://{address}:{port}{path}", timeout=2) as answer:
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
        advice = "'local-cluster down' stops the rest"
        fail(f"{node['name']} did not become ready: {why} ({advice})\nthe end of {log}:\n{tail}")


def stop(nodes, folder):
    """Asks all of them at once to end, and waits until they have."""
    running = [node for node in nodes if runs(node, folder)]
    for node in nodes:
        if node in running:
            signal_to(node, signal.SIGTERM)
        else:
            say(f"  {node['name']}: was not running")
    deadline, killed = time.monotonic() + STOP_SECONDS_MAX, []
    for node in running:
        while runs(node, folder):
            if time.monotonic() > deadline and node not in killed:
                say(f"  {node['name']}: still there after {STOP_SECONDS_MAX} s, killing it (pid {node['pid']})")
                signal_to(node, signal.SIGKILL)
                killed.append(node)
            time.sleep(0.05)
        say(f"  {node['name']}: stopped")


def signal_to(node, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(node["pid"], number)
