"""From the records of the league to ranks, differences and their significance, and one page."""

import math
import statistics
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from ._league_tables import FEW, MANY, NOT_COUNTED, TABLES
from ._rst import circumstances, table, title
from ._scores import paired, unpack
from ._tables import TRAIN_ALONE
from ._verdicts import Verdict

SIGNIFICANT = 2.0  # standard errors
REFERENCE = "gmm"
MARGIN = 0.7  # of a mean rank
SHARE = 0.75  # of the tables
_WHY_APART = {
    "gas_sensor_drift": "on gas_sensor_drift a few validation rows beyond 15 sigma drive every choice",
    MANY: f"{MANY} is the training and validation rows of {FEW}, split 90/10, with the same test rows in "
    "units of its own training rows",
}


class League(NamedTuple):
    """The records to show."""

    ours: str
    records: dict  # table -> model -> list of records, over splits and seeds
    current: bool
    quick: bool

    @property
    def models(self):
        """In the order of their first appearance; ours first."""
        found = dict.fromkeys(model for models in self.records.values() for model in models)
        return sorted(found, key=lambda model: model != self.ours)

    @property
    def ranked(self):
        """Tables that count and on which every model has a result."""
        return [
            name
            for name, models in self.records.items()
            if name not in NOT_COUNTED and set(models) == set(self.models)
        ]


def collect(records, code, quick, ours):
    """Of every table, split, model and seed the last record with the largest cap."""
    rows, current = records.to_show(code, quick)
    best = {}
    for row in rows:
        key = tuple(row[name] for name in ("table", "split", "model", "seed"))
        if key not in best or row.get("seconds", 0) >= best[key].get("seconds", 0):
            best[key] = row
    found = {}
    for name in TABLES:
        for row in best.values():
            if row["table"] == name:
                found.setdefault(name, {}).setdefault(row["model"], []).append(row)
    return League(ours, found, current, quick)


def by_split(records):
    """Split -> records of its seeds."""
    found = {}
    for row in records:
        found.setdefault(row["split"], []).append(row)
    return found


def nll(records):
    """Mean over splits of the mean over seeds, nats, and its standard error over the test rows."""
    means = [statistics.fmean(r["mean"] for r in rows) for rows in by_split(records).values()]
    return statistics.fmean(means), statistics.fmean(r["standard_error"] for r in records)


def difference(ours, theirs):
    """How much better the log-densities of ``ours`` are than ``theirs``, and the standard error, nats.

    Row by row, of the seeds' mean log-density; then the mean over the splits that both have.  The standard
    error is that of one split: the rows of several splits are partly the same.
    """
    mine, other = by_split(ours), by_split(theirs)
    pairs = [paired(_rows(mine[s]), _rows(other[s])) for s in mine if s in other]
    if not pairs:
        return math.nan, math.nan
    return statistics.fmean(m for m, _ in pairs), statistics.fmean(e for _, e in pairs)


def _rows(records):
    return np.mean([unpack(r["log_density"]) for r in records], axis=0)


def outcome(mean, error):
    """``better``, ``worse``, or ``equal`` within two standard errors."""
    if math.isinf(mean):
        return "better" if mean > 0 else "worse"
    return "equal" if not abs(mean) > SIGNIFICANT * error else "better" if mean > 0 else "worse"


def ranks(league):
    """Model -> ranks on the tables that count; 1 is the lowest negative log-likelihood."""
    found = {model: [] for model in league.models}
    for name in league.ranked:
        means = [nll(league.records[name][model])[0] for model in league.models]
        for model, rank in zip(league.models, rankdata(means), strict=True):
            found[model].append(float(rank))
    return found


# -- verdicts ----------------------------------------------------------------------------------------------


def verdicts(league):
    """One verdict per demanded figure."""
    return [
        _rank_verdict(league),
        _wins_verdict(league),
        _reference_verdict(league),
        _time_verdict(league),
        _miniboone_verdict(league),
    ]


def _complete(league):
    return len(league.ranked) == len(TABLES) - len(NOT_COUNTED)


def _measured(league):
    n, total = len(league.ranked), len(TABLES) - len(NOT_COUNTED)
    return "" if n == total else f"; {n} of {total} tables measured with every model"


def _rank_verdict(league):
    demand = f"mean rank of {league.ours} on the counted tables is the best by at least {MARGIN:g}"
    if league.ours not in league.models or not league.ranked:
        return Verdict(demand, "not measured", "open")
    means = _mean_ranks(league)
    rival = min((m for m in means if m != league.ours), key=means.get, default=None)
    if rival is None:
        return Verdict(demand, "no peer measured", "open")
    figure = f"{means[league.ours]:.2f}; next {means[rival]:.2f} ({rival}){_measured(league)}"
    won = means[league.ours] <= means[rival] - MARGIN
    return Verdict(demand, figure, ("met" if won else "not met") if _complete(league) else "open")


def _wins_verdict(league):
    demand = f"{league.ours} is first on at least {SHARE:.0%} of the counted tables"
    if league.ours not in league.models or not league.ranked or len(league.models) < 2:
        return Verdict(demand, "not measured", "open")
    wins = {model: sum(rank == 1 for rank in values) for model, values in ranks(league).items()}
    rival = max((m for m in wins if m != league.ours), key=wins.get)
    figure = f"{wins[league.ours]} of {len(league.ranked)}; next {wins[rival]} ({rival}){_measured(league)}"
    won = wins[league.ours] >= SHARE * len(league.ranked)
    return Verdict(demand, figure, ("met" if won else "not met") if _complete(league) else "open")


def _mean_ranks(league):
    return {model: statistics.fmean(values) for model, values in ranks(league).items()}


def _time_verdict(league):
    demand = "its median time of a fit is at most that of the best neural peer, by mean rank"
    neural = {
        model
        for models in league.records.values()
        for model, rows in models.items()
        if rows[0]["kind"] == "flow peer"
    }
    if league.ours not in league.models or not league.ranked or not neural:
        return Verdict(demand, "not measured", "open")
    means = _mean_ranks(league)
    rival = min(neural, key=means.get)
    mine, other = (_middle(league, model, "fit_seconds") for model in (league.ours, rival))
    rows = [r for name in league.ranked for r in league.records[name][rival]]
    n_capped, caps = sum(_capped(r) for r in rows), " or ".join(f"{cap:g}" for cap in _caps(rows))
    figure = f"{mine:.1f} s against {other:.1f} s of {rival}, {n_capped} of whose {len(rows)} fits a cap of "
    figure += f"{caps} s ended{_measured(league)}"
    return Verdict(demand, figure, ("met" if mine <= other else "not met") if _complete(league) else "open")


def _reference_verdict(league):
    demand = f"never worse than {REFERENCE} beyond {SIGNIFICANT:g} standard errors of the paired difference"
    both = {league.ours, REFERENCE}
    names = [n for n, models in league.records.items() if n not in NOT_COUNTED and both <= set(models)]
    if not names:
        return Verdict(demand, "not measured", "open")
    found = {n: difference(league.records[n][league.ours], league.records[n][REFERENCE]) for n in names}
    worse = [f"{n} ({m:+.2f} ± {e:.2f})" for n, (m, e) in found.items() if outcome(m, e) == "worse"]
    better = sum(outcome(m, e) == "better" for m, e in found.values())
    total = len(TABLES) - len(NOT_COUNTED)
    figure = f"better on {better} of {len(names)}, worse on {len(worse)}"
    figure += f": {', '.join(worse)}" if worse else ""
    figure += "" if len(names) == total else f"; {len(names)} of {total} measured"
    return Verdict(demand, figure, "not met" if worse else "met" if len(names) == total else "open")


def _miniboone_verdict(league):
    demand = "MINIBOONE, trained on 1,523 rows and on 4,807: better than the best peer trained likewise"
    figures, means, complete = [], [], True
    for name in (FEW, MANY):
        models = league.records.get(name, {})
        peers = [model for model in models if model != league.ours]
        missing = [model for model in league.models if model not in models] if models else []
        parts = []
        if peers and league.ours in models:
            mine, best = models[league.ours], min(peers, key=lambda model: nll(models[model])[0])
            mean, error = difference(mine, models[best])
            cut = " (a cap ended its fit)" if any(map(_capped, models[best])) else ""
            parts.append(f"{nll(mine)[0]:.2f} against {nll(models[best])[0]:.2f} of {best}{cut}, ")
            parts[0] += f"better by {mean:+.2f} ± {error:.2f}"
            means.append(mean)
        if missing or not parts:
            complete = False  # the missing peer may be the best
            parts.append("not measured" + (f": {', '.join(missing)}" if missing else ""))
        figures.append(f"{name}: {'; '.join(parts)}")
    if any(mean <= 0 for mean in means):
        won = "not met"
    else:  # NaN: no split that both have
        won = "met" if complete and all(mean > 0 for mean in means) else "open"
    return Verdict(demand, ". ".join(figures), won)


# -- the page ----------------------------------------------------------------------------------------------


def page(league, picture=None):
    """The report as reStructuredText."""
    parts = [
        ".. Written by python -m siflow_sk.benchmarks league; changes made here are lost.\n",
        title("League", "="),
        _remarks(league),
        title("What is demanded, and what was found"),
        table(("Demand", "Figure", "Verdict"), [tuple(v) for v in verdicts(league)], (50, 38, 12)),
        *(_sections(league, picture) if league.records else ()),
        circumstances(row for m in league.records.values() for rows in m.values() for row in rows),
    ]
    return "\n".join(part for part in parts if part)


def _remarks(league):
    text = (
        "Mean negative log-likelihood of all test rows, nats per row, on open tables; lower is better.  "
        "Measured by ``python -m siflow_sk.benchmarks league``, every model on one thread of a CPU, on the "
        "same prepared tables: columns with at most 20 distinct values and repeated columns dropped, lattice "
        "columns spread over their cells, columns standardised by the training rows.  Nothing is tuned by "
        "hand on any table.\n"
    )
    if league.quick:
        text = (
            ".. warning::\n\n   Written with ``--quick``: tiny training budgets and a few hundred rows. "
            "The command works; the figures mean nothing.\n\n" + text
        )
    elif not league.current:
        text += "\nSome of these results were measured with an earlier state of the code.\n"
    if league.records and league.ours not in league.models:
        text += f"\n{league.ours} itself has not been run yet: these are the figures of its peers.\n"
    return text


def _sections(league, picture):
    counted = [name for name in league.records if name not in NOT_COUNTED]
    apart = [name for name in league.records if name in NOT_COUNTED]
    yield title("Ranks and times")
    yield (
        f"Ranks over the {len(league.ranked)} counted tables on which every model has a result; wins are "
        "first places.  Seconds of the processor, medians over "
        f"{'these tables' if league.ranked else 'the tables of each model'}: a fit with its choices on "
        "validation rows, and the log-densities of 1,000 rows.  Cap: on the fit of a peer, half of it below "
        "3,000 training rows; where several were tried the largest counts, in brackets on how many tables.\n"
    )
    yield _summary(league)
    if picture:
        yield f".. image:: {picture.name}\n   :alt: How far each model is behind the best of each table\n"
    yield title("Log-densities")
    yield (
        "Mean and standard error over the test rows.  A dagger marks a fit that the cap on time ended: a "
        f"floor of what the peer can do.  {league.ours} is fitted on training and "
        "validation rows together and keeps a tenth of them for its own choices (on "
        f"{', '.join(TRAIN_ALONE)} it gets the training rows alone); the peers train on the training rows "
        "and choose on the validation rows.\n"
    )
    yield _figures(league, counted)
    if apart:
        yield f"Apart, in no rank: {'; '.join(_WHY_APART[name] for name in apart)}.\n"
        yield _figures(league, apart)
    if league.ours in league.models:
        yield title("Differences")
        yield (
            f"How much better the log-density of {league.ours} is than that of the other model, nats per "
            "row, with the standard error of the paired difference; bold where it is worse by more than "
            f"{SIGNIFICANT:g} standard errors.\n"
        )
        yield _differences(league)
    yield title("Median rows")
    yield "The same with the median in place of the mean, which no single row can decide.\n"
    yield _medians(league)


def _capped(record):
    return bool(record["chosen"].get("capped"))


def _caps(records):
    """Caps on the time of fits -> number of tables."""
    tables = {}
    for row in records:
        if "seconds" in row:
            tables.setdefault(row["seconds"], set()).add(row["table"])
    return {cap: len(tables[cap]) for cap in sorted(tables)}


def _cap(league, model):
    caps = _caps(r for models in league.records.values() for r in models.get(model, ()))
    if len(caps) < 2:
        return "".join(f"{cap:g}" for cap in caps) or "none"
    return ", ".join(f"{cap:g} ({n})" for cap, n in caps.items())


def _middle(league, model, field):
    """Median over the tables on which every model has a result, or where there are none over the model's."""
    names = league.ranked or [name for name, models in league.records.items() if model in models]
    return statistics.median(statistics.fmean(r[field] for r in league.records[n][model]) for n in names)


def _summary(league):
    found = ranks(league)
    rows = []
    for model in league.models:
        values = found[model]
        rank = statistics.fmean(values) if values else math.inf
        rows.append(
            (
                rank,
                (
                    model,
                    f"{rank:.2f}" if values else "none",
                    f"{sum(r == 1 for r in values)}",
                    f"{_middle(league, model, 'fit_seconds'):.1f}",
                    f"{_middle(league, model, 'score_seconds'):.3f}",
                    _cap(league, model),
                ),
            )
        )
    rows.sort(key=lambda row: row[0])
    return table(
        ("Model", "Mean rank", "Wins", "Fit, s", "1,000 rows, s", "Cap, s"), [row for _, row in rows]
    )


def _figures(league, names):
    rows = []
    for name in names:
        models = league.records[name]
        best = min(nll(records)[0] for records in models.values())
        first = next(iter(models.values()))[0]
        size = f"{first['n_train']:,} x {first['n_features']}"
        rows.append((name, size, *(_figure(models.get(model), best) for model in league.models)))
    return table(("Table", "Training rows x columns", *league.models), rows) if rows else ""


def _figure(records, best):
    if not records:
        return "not run"
    mean, error = nll(records)
    dagger = "†" if any(map(_capped, records)) else ""
    splits, runs = len(by_split(records)), len(records)
    more = f" ({splits} split{'s' * (splits > 1)}, {runs} runs)" if runs > 1 else ""
    text = f"{mean:.2f} ± {error:.2f}" if math.isfinite(mean) else "infinite"
    return (f"**{text}**" if mean == best else text) + dagger + more


def _medians(league):
    rows = []
    for name, models in league.records.items():
        cells = (
            f"{statistics.fmean(r['median'] for r in models[m]):.2f}" if m in models else "not run"
            for m in league.models
        )
        rows.append((name, *cells))
    return table(("Table", *league.models), rows)


def _differences(league):
    others = [model for model in league.models if model != league.ours]
    rows = []
    for name, models in league.records.items():
        if league.ours not in models:
            continue
        cells = []
        for model in others:
            if model not in models:
                cells.append("not run")
                continue
            mean, error = difference(models[league.ours], models[model])
            text = f"{mean:+.2f} ± {error:.2f}" if math.isfinite(mean) else f"{mean:+}"
            cells.append(f"**{text}**" if outcome(mean, error) == "worse" else text)
        rows.append((name, *cells))
    return table(("Table", *others), rows)


def draw(league, path):
    """Picture of every table: how far each model is from the best.

    Returns
    -------
    path : Path or None
        None where there is nothing to draw or no matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    names = [name for name in league.records if name not in NOT_COUNTED]
    if not names:
        return None
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(names)), layout="constrained")
    axes = figure.subplots()
    best = [min(nll(records)[0] for records in league.records[name].values()) for name in names]
    for model in league.models:
        heights = [i for i, name in enumerate(names) if model in league.records[name]]
        mine = model == league.ours
        axes.plot(
            [nll(league.records[names[i]][model])[0] - best[i] for i in heights],
            heights,
            "D" if mine else "o",
            label=model,
            alpha=1.0 if mine else 0.7,
            color="black" if mine else None,
            zorder=3 if mine else 2,
        )
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlim(left=-0.01)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("nats per row behind the best model of the table")
    figure.legend(loc="outside right upper", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path
