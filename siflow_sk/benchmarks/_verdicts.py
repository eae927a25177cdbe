"""From the records to verdicts: each demanded figure, met or not."""

import statistics
from typing import NamedTuple

from ._costs import DIMENSIONS, DTYPES, MEMORY_ROWS
from ._published import best_published, published_mean
from ._tables import NOT_COUNTED, TABLES

# the demands
MAX_RATIO = 2.5
MIN_TRAIN_ROWS = 1000
MAX_FIT_SECONDS = 120.0
MAX_SMALL_FIT_SECONDS = 15.0
SMALL_TABLE = "breast_cancer"
MAX_SCORE_SECONDS = 2.0
# half of the answer to 1e6 rows: what an allocator may keep, far below an array of one number per row
MEMORY_SLACK = 4 * 2**20

# known before they are measured, to say what is missing
_N_TRAIN_BELOW_1000 = ("concrete", "breast_cancer")


class Results(NamedTuple):
    """The records of one code: lists over seeds, or one record."""

    flows: dict  # table -> records
    peers: dict  # (table, model) -> records
    divergence: dict  # (n_features, dtype) -> record
    memory: dict  # n_rows -> record
    current: bool  # nothing here comes from other code than the present one
    quick: bool

    def everything(self):
        for group in (*self.flows.values(), *self.peers.values()):
            yield from group
        yield from self.divergence.values()
        yield from self.memory.values()


class Verdict(NamedTuple):
    """A demand, what was found, and ``met``, ``not met`` or ``open``."""

    demand: str
    figure: str
    outcome: str


# -- collecting ------------------------------------------------------------------------------------------


def collect(records, code, quick):
    """The last record of every key; of the present code, or where there is none, of the newest one."""
    rows, current = records.to_show(code, quick)
    last = {_identity(row): row for row in rows}
    flows, peers, divergence, memory = {}, {}, {}, {}
    for row in last.values():
        if row["kind"] == "flow":
            flows.setdefault(row["table"], []).append(row)
        elif row["kind"] == "peer":
            peers.setdefault((row["table"], row["model"]), []).append(row)
        elif row["kind"] == "divergence":
            divergence[row["n_features"], row["dtype"]] = row
        else:
            memory[row["n_rows"]] = row
    return Results(flows, peers, divergence, memory, current, quick)


def _identity(row):
    names = ("kind", "table", "model", "seed", "n_features", "dtype")
    # the number of columns is a result of a fit, but the name of a cost
    names = names if row["kind"] == "divergence" else names[:4]
    return (*(row.get(name) for name in names), row.get("n_rows") if row["kind"] == "memory" else None)


def middle(records, field):
    """Median over the seeds; None where there is nothing."""
    values = [r[field] for r in records if r[field] is not None]
    return statistics.median(values) if values else None


# -- verdicts --------------------------------------------------------------------------------------------


def verdicts(results):
    """One verdict per demanded figure."""
    return [
        _divergence_verdict(results),
        _beats_cheap_peers(results),
        _beats_best_peer(results),
        _fit_verdict(results, TABLES, MAX_FIT_SECONDS, "default fit on every table"),
        _fit_verdict(results, (SMALL_TABLE,), MAX_SMALL_FIT_SECONDS, f"default fit on {SMALL_TABLE}"),
        _score_verdict(results),
        _memory_verdict(results),
    ]


def _outcome(failed, missing):
    return "not met" if failed else "open" if missing else "met"


def _measured(n, total):
    return "" if n == total else f"; {n} of {total} measured"


def _divergence_verdict(results):
    demand = (
        f"exact v and div v cost at most {MAX_RATIO} forward passes at d = {', '.join(map(str, DIMENSIONS))}"
    )
    ratios = {key: record["ratio"] for key, record in results.divergence.items()}
    wanted = len(DIMENSIONS) * len(DTYPES)
    if not ratios:
        return Verdict(demand, "not measured", "open")
    worst = max(ratios, key=ratios.get)
    figure = f"at most {ratios[worst]:.2f} (d = {worst[0]}, {worst[1]}){_measured(len(ratios), wanted)}"
    return Verdict(demand, figure, _outcome(ratios[worst] > MAX_RATIO, len(ratios) < wanted))


def counted_tables(large_only=True):
    """Tables that the comparisons count."""
    small = _N_TRAIN_BELOW_1000 if large_only else ()
    return [name for name in TABLES if name not in NOT_COUNTED and name not in small]


def cheap_peer(results, table):
    """Name and figure of the better of kernel density and mixture; ours of them or the published one."""
    figures = {}
    for model in ("kde", "gmm"):
        figures[f"{model}, published"] = published_mean(table, model)
        if (table, model) in results.peers:
            figures[f"{model}, here"] = middle(results.peers[table, model], "mean")
    best = min(figures, key=figures.get)
    return best, figures[best]


def _compare(results, tables, opponent):
    """Tables won, and the lost ones with both figures."""
    won, lost = [], []
    for table in tables:
        if table in results.flows:
            ours, (name, theirs) = middle(results.flows[table], "mean"), opponent(table)
            if ours < theirs:
                won.append(table)
            else:
                lost.append(f"{table} ({ours:.2f} against {theirs:.2f}, {name})")
    return won, lost


def _beats_cheap_peers(results):
    tables = counted_tables()
    demand = (
        f"mean test log-density better than kernel density and Gaussian mixture on every table with at least "
        f"{MIN_TRAIN_ROWS:,} training rows"
    )
    won, lost = _compare(results, tables, lambda table: cheap_peer(results, table))
    n = len(won) + len(lost)
    if n == 0:
        return Verdict(demand, "not measured", "open")
    peers_missing = any((t, m) not in results.peers for t in tables for m in ("kde", "gmm"))
    figure = f"better on {len(won)} of {n}{_measured(n, len(tables))}"
    figure += f"; not on {', '.join(lost)}" if lost else ""
    figure += "; some peers not run here" if peers_missing else ""
    return Verdict(demand, figure, _outcome(lost, n < len(tables) or peers_missing))


def _beats_best_peer(results):
    tables = counted_tables()
    demand = "mean test log-density better than the best published peer on at least half of these tables"
    won, lost = _compare(results, tables, best_published)
    n = len(won) + len(lost)
    if n == 0:
        return Verdict(demand, "not measured", "open")
    figure = f"better on {len(won)} of {n}{_measured(n, len(tables))}"
    figure += f"; not on {', '.join(lost)}" if lost else ""
    all_won, all_lost = _compare(results, counted_tables(large_only=False), best_published)
    figure += f"; with the smaller tables {len(all_won)} of {len(all_won) + len(all_lost)}"
    if 2 * len(won) >= len(tables):
        return Verdict(demand, figure, "met")
    return Verdict(demand, figure, _outcome(2 * len(lost) > len(tables), True))


def _largest(results, tables, field):
    values = {t: middle(results.flows[t], field) for t in tables if t in results.flows}
    worst = max(values, key=values.get) if values else None
    return values, worst


def _fit_verdict(results, tables, limit, what):
    demand = f"{what} takes at most {limit:g} s"
    values, worst = _largest(results, tables, "fit_seconds")
    if worst is None:
        return Verdict(demand, "not measured", "open")
    over = [f"{t} {v:.0f} s" for t, v in values.items() if v > limit]
    figure = f"at most {values[worst]:.1f} s ({worst}){_measured(len(values), len(tables))}"
    figure += f"; above: {', '.join(over)}" if len(over) > 1 else ""
    return Verdict(demand, figure, _outcome(over, len(values) < len(tables)))


def _score_verdict(results):
    demand = f"scoring 1,000 rows takes at most {MAX_SCORE_SECONDS:g} s at any d up to 129"
    values, worst = _largest(results, TABLES, "score_seconds")
    if worst is None:
        return Verdict(demand, "not measured", "open")
    columns = results.flows[worst][0]["n_features"]
    figure = f"at most {values[worst]:.2f} s ({worst}, d = {columns}){_measured(len(values), len(TABLES))}"
    return Verdict(demand, figure, _outcome(values[worst] > MAX_SCORE_SECONDS, len(values) < len(TABLES)))


def _memory_verdict(results):
    demand = (
        "peak memory of scoring does not grow with the number of rows beyond the input and the answer "
        f"(at most {mebibytes(MEMORY_SLACK)} from the fewest to the most of "
        f"{', '.join(f'{n:,}' for n in MEMORY_ROWS)} rows)"
    )
    growth = {n: results.memory[n]["peak_bytes"] for n in sorted(results.memory)}
    if not growth:
        return Verdict(demand, "not measured", "open")
    figure = ", ".join(f"{mebibytes(v)} at {n:,}" for n, v in growth.items())
    failed = max(growth.values()) - growth[min(growth)] > MEMORY_SLACK
    return Verdict(demand, figure, _outcome(failed, any(n not in growth for n in MEMORY_ROWS)))


def mebibytes(n_bytes):
    return f"{n_bytes / 2**20:.1f} MiB"
