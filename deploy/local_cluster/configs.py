"""The nodes' configuration files, and the keys that they name."""

import json
import pathlib
import secrets

from files import write, write_secret
from topology import LOOPBACK, listen, named, of_role, url

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
DRAIN_MILLISECONDS = 5_000
MASTER_KEY_BYTES = 32


def toml(sections):
    lines = []
    for section, keys in sections.items():
        lines.append(f"[{section}]")
        # A JSON string or number is a TOML one as well.
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        lines.append("")
    return "\n".join(lines)


def master_key_file(folder):
    return folder / "keys" / "master.key"


def join_token_file(node, folder):
    return folder / "keys" / f"{node['name']}.join-token"


def make_master_key(folder):
    path = master_key_file(folder)
    if not path.exists():
        write_secret(path, secrets.token_hex(MASTER_KEY_BYTES) + "\n")


def server_networks(nodes):
    """Where MCP servers may be: a cluster for trying things out has them on the machines that it runs on."""
    hosts = {node["address"] for node in nodes} - {LOOPBACK}
    return ["127.0.0.0/8", "::1/128", *sorted(f"{host}/32" for host in hosts)]


def config_of(node, nodes, folder):
    control_planes = of_role(nodes, "control-plane")
    apis = [url(other, "grpc", "https") for other in control_planes if other is not node]
    joining = {}
    if join_token_file(node, folder).exists():
        joining["join_token_file"] = str(join_token_file(node, folder))
    section = {
        "control-plane": lambda: {
            "node": node["name"],
            "listen": listen(node, "grpc") if node["address"] == LOOPBACK else f"0.0.0.0:{node['ports']['grpc']}",
            "http_listen": listen(node, "http"),
            "peer_listen": listen(node, "peer"),
            "ops_listen": listen(node, "ops"),
            "advertise_api": url(node, "grpc", "https"),
            "advertise_peer": listen(node, "peer"),
            "issuer": url(control_planes[0], "http"),
            "mcp_url": url(of_role(nodes, "data-plane")[0], "mcp") + "/mcp",
            "join": apis,
            **({} if node["address"] == LOOPBACK else {"danger_listen_beyond_loopback": True}),
        },
        "data-plane": lambda: {
            "node": node["name"],
            "listen": listen(node, "mcp"),
            "ops_listen": listen(node, "ops"),
            "control_plane": apis,
            "drain_delay_ms": 0,
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
    sections = {"nats": nats, "master_key": master_key, node["role"].replace("-", "_"): own}
    if node["role"] == "data-plane":
        sections["data_plane.upstream"] = {"allowed_networks": server_networks(nodes)}
    return toml(sections)


def config_file(node, folder):
    return str(folder / "config" / (node["name"] + (".conf" if node["role"] == "nats" else ".toml")))


def write_config(node, nodes, folder):
    (folder / "data" / node["name"]).mkdir(parents=True, exist_ok=True)
    if node["role"] == "nats":
        text = (REPOSITORY / "deploy" / "nats" / "loopback.conf").read_text()
    else:
        text = config_of(node, nodes, folder)
    write(pathlib.Path(config_file(node, folder)), text)
