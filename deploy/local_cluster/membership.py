"""Members: how a cluster is founded, how nodes join it, and who they are."""

import json
import subprocess
import time

from configs import config_file, join_token_file, write_config
from files import fail, write_secret
from processes import READY_SECONDS_MAX, bailiwick, program, runs
from topology import of_role


def is_member(node, folder):
    """Whether its folder holds an identity; a node without one needs a join token."""
    return (folder / "data" / node["name"] / "keys" / "identity.member").exists()


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
