"""Is it smaller, faster and still right?

The door of the room. ``compare`` measures any number of artifacts side by side; the search uses the finer
functions, cheapest first: ``sizes``, ``predict`` and ``judge``, then ``time_interleaved``.
"""

from hasten.measuring.compare import compare
from hasten.measuring.kernels import kernels
from hasten.measuring.latency import Timing, time_interleaved
from hasten.measuring.metrics import Metric, UserMetric, recorded, resolve
from hasten.measuring.predict import Predictions, predict
from hasten.measuring.quality import flipped, judge
from hasten.measuring.size import sizes
from hasten.measuring.subject import Conditions, Progress, Subject

__all__ = [
    "Conditions",
    "Metric",
    "Predictions",
    "Progress",
    "Subject",
    "Timing",
    "UserMetric",
    "compare",
    "flipped",
    "judge",
    "kernels",
    "predict",
    "recorded",
    "resolve",
    "sizes",
    "time_interleaved",
]
