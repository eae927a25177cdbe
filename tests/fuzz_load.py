"""Files damaged or forged at random, offered to ``load``; ``python tests/fuzz_load.py N SEED`` runs N.

Whatever happens must be an estimator or a ValueError.  As a program it also watches that nothing is executed,
unpickled or written meanwhile, and how far the memory grows.
"""

import copy
import json
import os
import random
import sys
import tempfile
import time
import warnings

import numpy as np
from sklearn.neighbors import KernelDensity

import siflow_sk
from siflow_sk import InterpolantFlow
from siflow_sk.persistence import SaveMixin, _container
from siflow_sk.velocities import MLP


def small_flow():
    """A flow with arrays, tensors, modules, a tree, a generator and text in it; about 30 kB as a file."""
    X = np.random.default_rng(0).normal(size=(60, 2))
    return InterpolantFlow(
        base=KernelDensity(),
        velocity=MLP(width=8, time_width=8),
        preprocessor="whiten",
        max_iter=10,
        polish=0,
        random_state=np.random.RandomState(0),
    ).fit(X)


def damaged(data, rng):
    """Bytes changed without mending the checksum."""
    data = bytearray(data)
    where = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(min(len(data), 4000))
    length = rng.randrange(1, 200)
    how = rng.randrange(8)
    if how == 0:
        data[where] ^= 1 << rng.randrange(8)
    elif how == 1:
        del data[where:]
    elif how == 2:
        del data[where : where + length]
    elif how == 3:
        data[where:where] = rng.randbytes(length)
    elif how == 4:
        data[where : where + length] = rng.randbytes(length)
    elif how == 5:
        data[:8] = rng.randrange(2 ** rng.choice([8, 16, 24, 32, 48, 64])).to_bytes(8, "little")
    elif how == 6:
        other = rng.randrange(len(data))
        data[where : where + length] = data[other : other + length]
    else:
        data[:2] = rng.choice([b"\x80\x04", b"PK", b"x\x9c", b"\x93N", b"(d", b"{}"])
    return bytes(data)


JUNK = [None, True, 0, -1, 2**70, 1e308, "", "x", "float64", [], {}, [[]]]
JUNK += [
    "siflow_sk.solvers.Grid",
    "os.system",
    {"$": "same", "id": 0},
    {"$": "object", "id": 0, "class": "os.system", "state": {}},
    {"$": "object", "id": 1, "class": "sklearn.KernelDensity", "state": {}},
    {"$": "objects", "kind": "O", "shape": [10**12], "items": []},
    {"$": "array", "id": 3, "key": "0", "flipped": True},
    {"$": "tensor", "id": 3, "key": "1", "flipped": True, "parameter": True, "grad": True},
    {"$": "floats", "key": "0"},
    {"$": "size", "items": [10**12]},
    {"$": "dtype", "name": "f8,f8"},
    {"$": "__init__"},
]


def places(node, found):
    """Every (container, key) in a tree of JSON."""
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        found.append((node, key))
        if isinstance(value, dict | list):
            places(value, found)
    return found


def forged(content, tensors, rng):
    """Changed content under a valid checksum."""
    content, tensors = copy.deepcopy(content), dict(tensors)
    for _ in range(rng.choice([1, 1, 2, 5])):
        found = places(content, [])
        if not found:  # nothing is left to change
            break
        node, key = found[rng.randrange(len(found))]
        how = rng.randrange(5)
        if how == 0:
            del node[key]
        elif how == 1:
            other, at = found[rng.randrange(len(found))]
            node[key] = copy.deepcopy(other[at])
        elif how == 2 and tensors:
            name = rng.choice(sorted(tensors))
            other = tensors[rng.choice(sorted(tensors))]
            tensors[name] = rng.choice([other, other.reshape(-1)[:0], other[None]]).clone()
        else:
            node[key] = copy.deepcopy(rng.choice(JUNK))
    return _container.pack("estimator", content, tensors)


def fuzz(n, seed, folder):
    """Load ``n`` mutants; how many were refused and how many gave an estimator, and the slowest load in s."""
    rng = random.Random(seed)
    path = os.path.join(folder, "flow.safetensors")
    small_flow().save(path)
    with open(path, "rb") as file:
        data = file.read()
    content, tensors = _container.read(path, "estimator")
    counts = {"mutants": n, "refused": 0, "loaded": 0, "slowest": 0.0, "size": len(data)}
    for _ in range(n):
        resealed = rng.random() < 0.5
        mutant = forged(content, tensors, rng) if resealed else damaged(data, rng)
        with open(path, "wb") as file:
            file.write(mutant)
        start = time.perf_counter()
        try:
            loaded = siflow_sk.load(path, device="cpu")
        except ValueError:
            counts["refused"] += 1
        else:
            assert resealed or mutant == data, "a damaged file passed"
            assert isinstance(loaded, SaveMixin)
            counts["loaded"] += 1
        counts["slowest"] = max(counts["slowest"], time.perf_counter() - start)
    return counts


FORBIDDEN = (
    "exec",
    "pickle.find_class",
    "marshal.loads",
    "os.system",
    "os.exec",
    "subprocess.Popen",
    "socket.",
)


def main(n, seed):
    import resource

    executed, watching = [], []

    def watch(event, arguments):
        if watching and event.startswith(FORBIDDEN):
            executed.append(f"{event} {arguments}")

    sys.addaudithook(watch)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fuzz(200, 0, folder)  # imports that happen at first use
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        watching.append(True)
        counts = fuzz(n, seed, folder)
        watching.clear()
    counts["growth"] = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    counts["executed"] = executed[:10]
    print(json.dumps(counts))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
