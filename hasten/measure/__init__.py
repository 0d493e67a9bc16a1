"""Is it smaller, faster and still right?

The door of the room. ``compare`` measures any number of artifacts side by side; the search uses the finer
functions, cheapest first: ``sizes``, ``predict`` and ``judge``, then ``time_interleaved``.
"""

from hasten.measure.compare import compare
from hasten.measure.latency import Timing, throughput, time_interleaved
from hasten.measure.metrics import Metric, UserMetric, resolve
from hasten.measure.predict import Predictions, predict
from hasten.measure.quality import judge
from hasten.measure.size import sizes
from hasten.measure.subject import Conditions, Progress, Subject

__all__ = [
    "Conditions",
    "Metric",
    "Predictions",
    "Progress",
    "Subject",
    "Timing",
    "UserMetric",
    "compare",
    "judge",
    "predict",
    "resolve",
    "sizes",
    "throughput",
    "time_interleaved",
]
