"""A scripted MCP server over standard input and output, that does what no server should, on demand.

Started by the end-to-end tests through Bailiwick; it speaks no SDK, so that every byte is the script's. Each tool is
named for what it does. Arguments of the program say how it begins:

    --crash         ends before it says anything
    --dies          ends when it is asked what it does not know (as some old servers do)
    --deaf          says nothing to what it does not know
    --old           speaks 2024-11-05
    --stubborn      does not end when its input ends, nor on SIGTERM
    --slow SECONDS  greets that late
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time

OPTIONS = set(sys.argv[1:])
VERSION = "2024-11-05" if "--old" in OPTIONS else "2025-11-25"
OUT = sys.stdout.buffer
LOCK = threading.Lock()
STATE = {"remembered": None, "level": None, "cancelled": [], "subscribed": []}
WAITING = {}

TOOLS = """about remember crash hang flood_out long_line half flood_err junk wrong_id twice family bomb progress log ask
tell_secret cancelled slow broken_json announce""".split()


def say(message):
    raw(json.dumps(message).encode() + b"\n")


def raw(data):
    with LOCK:
        OUT.write(data)
        OUT.flush()


def text(request, content):
    say({"jsonrpc": "2.0", "id": request["id"], "result": {"content": [{"type": "text", "text": content}]}})


def about():
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptors[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "group": os.getpgid(0),
        "environment": dict(os.environ),
        "descriptors": descriptors,
        "directory": os.getcwd(),
        "arguments": sys.argv[1:],
        "level": STATE["level"],
    }


def sleeper(mark, own_session):
    code = f"import time; mark = '{mark}'; time.sleep(600)"
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=own_session).pid


def bomb(depth):
    # Ends by itself: 2 to the power of `depth` processes, which all stay for ten minutes.
    for _ in range(depth):
        if os.fork() == 0:
            bomb(depth - 1)
            break
        depth -= 1
    time.sleep(600)


def call(request):
    params = request.get("params", {})
    name, arguments = params.get("name"), params.get("arguments") or {}
    if name == "about":
        text(request, json.dumps(about()))
    elif name == "remember":
        before, STATE["remembered"] = STATE["remembered"], arguments.get("text")
        text(request, json.dumps({"before": before, "pid": os.getpid()}))
    elif name == "crash":
        os._exit(3)
    elif name == "hang":
        pass
    elif name == "slow":
        time.sleep(float(arguments.get("seconds", 1)))
        text(request, "slow")
    elif name == "flood_out":
        while True:
            raw(b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}\n' * 1000)
    elif name == "long_line":
        while True:
            raw(b"x" * 1_000_000)
    elif name == "half":
        raw(b'{"jsonrpc":"2.0","id":' + json.dumps(request["id"]).encode() + b',"result":{"content"')
    elif name == "flood_err":
        for _ in range(50_000):
            sys.stderr.write("noise " * 20 + "\n")
        text(request, "said")
    elif name == "junk":
        raw(b"Starting up...\n\n{}\n[]\n\x00\xff\n{\"level\":30}\n")
        text(request, "said")
    elif name == "broken_json":
        raw(b'{"jsonrpc":"2.0","id":%s,"result":{"a":1,"a":2}}\n' % json.dumps(request["id"]).encode())
    elif name == "wrong_id":
        text({"id": 999_999}, "for nobody")
        text({"id": str(request["id"])}, "for nobody")
    elif name == "twice":
        text(request, "first")
        text(request, "second")
    elif name == "family":
        pids = [sleeper(arguments["mark"], False), sleeper(arguments["mark"], True)]
        text(request, json.dumps(pids))
    elif name == "bomb":
        if os.fork() == 0:
            os.close(0)
            bomb(int(arguments.get("depth", 7)))
        text(request, "lit")
    elif name == "progress":
        token = params.get("_meta", {}).get("progressToken")
        for step in range(3):
            say({"jsonrpc": "2.0", "method": "notifications/progress",
                 "params": {"progressToken": token, "progress": step, "total": 3}})
        text(request, "done")
    elif name == "log":
        say({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "logged"}})
        text(request, "done")
    elif name == "ask":
        WAITING["question"] = request
        say({"jsonrpc": "2.0", "id": "question", "method": "elicitation/create",
             "params": {"message": "Really?", "requestedSchema": {"type": "object", "properties": {}}}})
    elif name == "tell_secret":
        sys.stderr.write(f"the secret is {os.environ.get('TOKEN')}\n")
        sys.stderr.flush()
        text(request, "told")
    elif name == "announce":
        say({"jsonrpc": "2.0", "method": "notifications/prompts/list_changed"})
        for uri in STATE["subscribed"]:
            say({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}})
        text(request, json.dumps(STATE["subscribed"]))
    elif name == "cancelled":
        text(request, json.dumps(STATE["cancelled"]))
    else:
        say({"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32602, "message": "no such tool"}})


def handle(message):
    method = message.get("method")
    if method is None:
        asked = WAITING.pop(message.get("id"), None)
        if asked:
            text(asked, json.dumps(message.get("result") or message.get("error")))
    elif method == "initialize":
        say({"jsonrpc": "2.0", "id": message["id"], "result": {
            "protocolVersion": VERSION,
            "capabilities": {"tools": {"listChanged": True}, "logging": {}, "prompts": {"listChanged": True},
                             "resources": {"subscribe": True, "listChanged": True}},
            "serverInfo": {"name": "scripted", "version": "1"}}})
    elif method == "tools/list":
        tools = [{"name": name, "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}
                 for name in TOOLS]
        say({"jsonrpc": "2.0", "id": message["id"], "result": {"tools": tools}})
    elif method == "logging/setLevel":
        STATE["level"] = message["params"]["level"]
        say({"jsonrpc": "2.0", "id": message["id"], "result": {}})
    elif method == "prompts/list":
        say({"jsonrpc": "2.0", "id": message["id"], "result": {"prompts": [{"name": "greet"}]}})
    elif method == "resources/list":
        say({"jsonrpc": "2.0", "id": message["id"], "result": {"resources": [{"name": "a", "uri": "memo://host/a"}]}})
    elif method == "resources/subscribe":
        STATE["subscribed"].append(message["params"]["uri"])
        say({"jsonrpc": "2.0", "id": message["id"], "result": {}})
    elif method == "resources/unsubscribe":
        STATE["subscribed"].remove(message["params"]["uri"])
        say({"jsonrpc": "2.0", "id": message["id"], "result": {}})
    elif method == "tools/call":
        threading.Thread(target=call, args=(message,), daemon=True).start()
    elif method == "notifications/cancelled":
        STATE["cancelled"].append(message["params"]["requestId"])
    elif "id" in message:
        if "--dies" in OPTIONS:
            os._exit(1)
        if "--deaf" not in OPTIONS:
            say({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "not known"}})


def main():
    if "--crash" in OPTIONS:
        sys.exit("crashing, as told")
    if "--stubborn" in OPTIONS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "--slow" in OPTIONS:
        time.sleep(float(sys.argv[sys.argv.index("--slow") + 1]))
    for line in sys.stdin.buffer:
        handle(json.loads(line))
    while "--stubborn" in OPTIONS:
        time.sleep(1)


main()
