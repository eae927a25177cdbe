"""Pictures of estimators, in the manner of scikit-learn's displays; matplotlib is imported when one is drawn.

``from_estimator`` computes and draws; the object that it returns holds what was computed, and its ``plot``
draws it again, in other axes or another style.  It needs the extra ``plot``.
"""

from ._density import DensityDisplay
from ._path import PathDisplay
from ._samples import SamplesDisplay
from ._training import TrainingDisplay

__all__ = ["DensityDisplay", "PathDisplay", "SamplesDisplay", "TrainingDisplay"]
