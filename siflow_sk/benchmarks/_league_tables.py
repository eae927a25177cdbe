"""The tables of the league: the open ones, and the rows of one of them split anew.

Apart from ``_tables``, which the results of other commands rest on and whose tables those run over.
"""

import numpy as np

from . import _tables

FEW, MANY = "miniboone_partial", "miniboone_4807"

TABLES = (*_tables.TABLES, MANY)

# most rows of MANY are those of FEW: shown, never counted
NOT_COUNTED = (*_tables.NOT_COUNTED, MANY)


def find_table(name, data=None):
    """As :func:`_tables.find_table`."""
    return _tables.find_table(FEW if name == MANY else name, data)


def load_table(name, data=None):
    """As :func:`_tables.load_table`; of ``MANY`` the splits are made here.

    The training and validation rows of ``FEW`` together, redrawn into nine tenths and one tenth; its test
    rows as they are.
    """
    if name != MANY:
        return _tables.load_table(name, data)
    table = _tables.load_table(FEW, data)
    rows = np.concatenate([table.train, table.valid])
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    return _tables.Table(*np.split(rows, [len(rows) * 9 // 10]), table.test)
