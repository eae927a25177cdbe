"""The league: figures of other density estimators on the open tables, from a run before this library.

Mean test negative log-likelihood per row in nats after :func:`siflow_sk.benchmarks._tables.prepare`, with its
standard error; seed 0, one thread of a busy 2-core CPU, no tuning per table.  ``maf_white``, ``nsf`` and
``nsf_white`` are flows of zuko 1.6 (``_white``: after PCA whitening).  A dagger marks a fit that a cap on
time ended: a floor of what the peer can do.
"""

SOURCE = "siflow_sk/benchmarks/_published.py"

_FIGURES = """
set                       | gaussian      | kde           | gmm              | maf_white      | nsf            | nsf_white
power_plant               | 4.72 ± 0.05   | 3.16 ± 0.07   | 3.54 ± 0.06      | 3.77 ± 0.06†   | 3.63 ± 0.05†   | 3.58 ± 0.06†
protein                   | 5.73 ± 0.43   | 1.74 ± 0.16   | -1.87 ± 0.18†    | -2.27 ± 0.29†  | -0.51 ± 0.29†  | -1.81 ± 0.43†
magic_gamma               | 10.53 ± 0.15  | 7.82 ± 0.12   | 4.97 ± 0.12†     | 5.09 ± 0.11†   | 4.53 ± 0.14†   | 4.80 ± 0.14†
parkinsons_telemonitoring | 8.01 ± 4.94   | 10.51 ± 1.59  | 0.61 ± 10.01†    | -7.77 ± 2.42   | -0.77 ± 1.67†  | -3.81 ± 5.08†
concrete                  | 9.23 ± 0.24   | 4.87 ± 0.96   | 3.70 ± 0.69      | 6.86 ± 0.50    | 4.01 ± 0.52†   | 4.69 ± 0.46†
wine_white                | 13.02 ± 0.60  | 9.82 ± 0.27   | 10.47 ± 0.30     | 10.11 ± 0.17   | 9.96 ± 0.20†   | 10.63 ± 0.63
breast_cancer             | 14.45 ± 3.31  | 32.76 ± 3.22  | 11.89 ± 3.99     | 8.71 ± 2.83    | 13.92 ± 3.11†  | 11.90 ± 3.63
kin8nm                    | 12.48 ± 0.05  | 11.87 ± 0.04  | 11.57 ± 0.05     | 10.98 ± 0.09†  | 10.42 ± 0.05†  | 11.01 ± 0.06
airfoil                   | 4.93 ± 0.15   | 2.88 ± 0.19   | 2.15 ± 0.22      | 2.33 ± 0.24†   | 2.09 ± 0.19†   | 1.87 ± 0.16
skillcraft                | 20.14 ± 1.54  | 20.42 ± 1.95  | 124.90 ± 115.69  | 10.97 ± 0.64†  | 9.30 ± 1.71†   | 12.62 ± 1.62†
gas_sensor_drift          | 13.04 ± 2.51  | 233.48 ± 0.10 | -79.07 ± 8.77    | -210.81 ± 4.77 | -7.60 ± 6.09†  | -182.21 ± 23.42†
miniboone_partial         | 38.75 ± 0.86  | 44.39 ± 0.45  | 28.77 ± 0.94     | 29.27 ± 0.37   | 30.13 ± 0.43†  | 31.97 ± 0.88†
power_2007h1              | 7.86 ± 0.03   | 1.13 ± 0.08   | -0.66 ± 0.02†    | -0.33 ± 0.02†  | -0.26 ± 0.04†  | -0.53 ± 0.03†
"""  # noqa: E501


def _parse(figures):
    (_, *models), *rows = ([cell.strip() for cell in line.split("|")] for line in figures.split("\n") if line)
    return {name: dict(zip(models, cells, strict=True)) for name, *cells in rows}


# table -> model -> "mean ± standard error", with a dagger where the cap ended the fit
PUBLISHED = _parse(_FIGURES)


def published_mean(table, model):
    """Mean test negative log-likelihood of a published peer, nats."""
    return float(PUBLISHED[table][model].split("±")[0])


def best_published(table):
    """Name and mean of the published peer with the lowest negative log-likelihood."""
    means = {model: published_mean(table, model) for model in PUBLISHED[table]}
    model = min(means, key=means.get)
    return model, means[model]
