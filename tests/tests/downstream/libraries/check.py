"""Has docs/downstream/context.py judge the cases of a file: prints whether it believes each, as JSON.

    check.py FOLDER_OF_THE_LIBRARY CASES
"""

import json
import sys

sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
from context import ContextVerifier, NotBelieved  # noqa: E402

with open(sys.argv[2]) as file:
    world = json.load(file)
believed = []
for case in world["cases"]:
    verifier = ContextVerifier(world["issuer"], case.get("audience", world["audience"]), world.get("jwks"))
    for _ in range(case.get("times", 1)):
        try:
            body = case["body"].encode()
            verifier.verify(case["contexts"], body, case["method"], case["target"], case["now"])
            last = True
        except NotBelieved:
            last = False
    believed.append(last)
print(json.dumps(believed))
