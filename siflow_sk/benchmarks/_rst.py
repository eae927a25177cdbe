"""Pieces of a page in reStructuredText."""

import math
import statistics


def title(text, mark="-"):
    """A heading."""
    return f"{text}\n{mark * len(text)}\n"


def table(header, rows, widths=None):
    """A list-table; every cell is text in one line."""
    lines = [".. list-table::", "   :header-rows: 1"]
    if widths:
        lines.append(f"   :widths: {' '.join(map(str, widths))}")
    lines.append("")
    for row in (header, *rows):
        for i, cell in enumerate(row):
            lines.append(f"   {'*' if i == 0 else ' '} - {cell}".rstrip())
    return "\n".join(lines) + "\n"


def mean_and_error(values, form):
    """A cell: the mean of some results, with its standard error where there are several."""
    if not values:
        return "-"
    mean = statistics.fmean(values)
    if len(values) == 1 or not math.isfinite(mean):
        return format(mean, form)
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{format(mean, form)} ± {format(error, form)}"


def with_state(text, current, quick):
    """Remarks of a page, with what weakens its figures: ``--quick``, or an earlier state of the code."""
    if quick:
        return (
            ".. warning::\n\n   Written with ``--quick``: tiny training budgets and a few rows. The command "
            "works; the figures mean nothing.\n\n" + text
        )
    return (
        text
        if current
        else text + "\nSome of these results were measured with an earlier state of the code.\n"
    )


def not_measured(rows, columns, found):
    """Which pairs of the command's own rows and columns are absent, in one sentence; "" if none is.

    Parameters
    ----------
    rows, columns : dict
        Name -> how the page calls it.
    found : collection of (row, column)
        What the records hold.
    """
    if not found:
        return ""
    absent = {row: [c for c in columns if (row, c) not in found] for row in rows}
    nowhere = [c for c in columns if all(c in gone for gone in absent.values())]
    wholly = [row for row, gone in absent.items() if len(gone) == len(columns)]
    parts = [f"{', '.join(columns[c] for c in nowhere)} (everywhere)"] if nowhere else []
    parts += [f"{', '.join(rows[row] for row in wholly)} (everything)"] if wholly else []
    for row in (row for row in rows if row not in wholly):
        if gone := [columns[c] for c in absent[row] if c not in nowhere]:
            parts.append(f"{rows[row]} ({', '.join(gone)})")
    return f"Not measured: {'; '.join(parts)}.\n" if parts else ""


def circumstances(records):
    """With which versions, machine and code the records were measured."""
    records = list(records)
    around = [r["circumstances"] for r in records]
    if not around:
        return title("How it was measured") + "\nNothing has been measured yet.\n"
    dates = sorted({a["date"] for a in around})
    loads = [a["load"] for a in around if a["load"] is not None]
    versions = distinct(", ".join(f"{k} {v}" for k, v in a["versions"].items()) for a in around)
    machines = distinct(
        f"{a['cpu']}, {a['cores']} cores, {a['threads']} torch thread{'s' * (a['threads'] != 1)}, "
        f"device {r.get('device') or a['device']}"
        for r, a in zip(records, around, strict=True)
    )
    lines = [
        f"* Command: {'; '.join(f'``{c}``' for c in merged(a['command'] for a in around))}",
        f"* Date: {dates[0] if len(dates) == 1 else f'{dates[0]} to {dates[-1]}'}",
        f"* Versions: {'; '.join(versions)}",
        f"* Machine: {'; '.join(machines)}",
    ]
    if loads:
        lines.append(
            "* Load of the machine (one-minute average before a result was measured): median "
            f"{statistics.median(loads):.1f}, largest {max(loads):.1f}"
        )
    codes = distinct(f"{r['kind']} {r['code']}" for r in records)
    lines.append(f"* Code: {', '.join(codes)}")
    return title("How it was measured") + "\n" + "\n".join(lines) + "\n"


def merged(commands):
    """Distinct commands; those that differ in tables or models alone, for as many processes, as one."""
    groups = {}
    for command in distinct(commands):
        words, chosen = command.split(), {}
        for option in ("--tables", "--models"):
            if option in words:
                at = words.index(option)
                chosen[option] = words[at + 1].split(",")
                del words[at : at + 2]
        same, names = groups.setdefault((" ".join(words), *chosen), ([], {}))
        same.append(command)
        for option, some in chosen.items():
            names.setdefault(option, {}).update(dict.fromkeys(some))
    return [
        " ".join([rest, *(f"{option} {','.join(some)}" for option, some in names.items())])
        if len(same) > 1
        else same[0]
        for (rest, *_), (same, names) in groups.items()
    ]


def distinct(values):
    """In the order of their first appearance."""
    return list(dict.fromkeys(values))
