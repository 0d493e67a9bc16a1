"""The page is well formed, self-contained, escaped, and says what the record says."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from hasten.core.errors import OutputError, RecordError
from hasten.core.recipe import Step
from hasten.core.record import RunRecord
from hasten.report import render, rows, write

from . import parts, records

VOID = {"meta", "link", "img", "br", "hr", "input"}
HOSTILE = (
    "<script>window.hacked=1</script>",
    '"><img src=x onerror=window.hacked=1>',
    "' onmouseover='window.hacked=1' x='",
    "</title></style></script><iframe src=//example.org>",
    "{{ 7 * 7 }}{% raw %}&amp;&#60;b>",
    "javascript:window.hacked=1//",
)


class Page(HTMLParser):
    """Elements with their attributes, text, and whatever is wrong with the nesting."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.faults: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(set(names)) != len(names):
            self.faults.append(f"<{tag}> repeats an attribute: {names}")
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}> closes another element, at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def prose(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))

    def values(self, name: str) -> list[str]:
        return [attrs[name] for _, attrs in self.elements if name in attrs]


@pytest.fixture(params=records.VARIANTS.values(), ids=records.VARIANTS)
def made(request: pytest.FixtureRequest) -> RunRecord:
    build: Callable[[], RunRecord] = request.param
    return build()


def test_is_well_formed(made: RunRecord) -> None:
    page = Page(render(made))
    assert page.faults == []
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    for name in ("aria-labelledby", "aria-controls"):
        assert set(page.values(name)) <= set(ids)
    targets = {href.removeprefix("#") for href in page.values("href") if href.startswith("#")}
    assert targets <= set(ids)


def test_loads_nothing(made: RunRecord) -> None:
    text = render(made)
    page = Page(text)
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert page.values("src") == []
    assert page.values("style") == []
    assert all(href == "data:," or href.startswith("#") for href in page.values("href"))
    assert not [n for _, attrs in page.elements for n in attrs if n.startswith("on")]


def test_headings_descend_by_one(made: RunRecord) -> None:
    levels = [int(tag[1]) for tag, _ in Page(render(made)).elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


def test_is_a_function_of_the_record_alone(made: RunRecord) -> None:
    again = RunRecord.parse(made.to_json())
    assert render(again) == render(made)


def test_says_what_was_found() -> None:
    prose = Page(render(records.record())).prose
    for said in (
        "3.2 times faster than the original, within 1 % of its accuracy: int8 on OpenVINO.",
        "The claim is made on Holdout : 2,000 samples",
        "3.18×",
        "95 % interval 3.08× to 3.28×",
        "points of accuracy lost, indistinguishable from no change",
        "95 % interval: 0.13 gained to 0.65 points lost",
        "budget 0.91 points: the whole interval is within it",
        "on Selection, where it was chosen: 0.21 points lost (0.21 gained to 0.63 points lost; n = 1,000)",
        "against PyTorch 2.13 eager, which runs today: 12.4× faster (95 % interval 11.6× to 13.1×)",
        "12.4 MB",
        "3.88× smaller",
        "1.44× less",
        "no float16 kernel for Resize",
        "no MatMul, Gemm or recurrent layer",
        "this runtime has no bfloat16 kernels on the CPU",
        "16 not an operator with an int8 kernel here (16 Mul)",
        "avx512_vnni",
        "Selection: 1,000",
        "noisy: the interquartile range is 9 %",
        "hasten verify DIR --model MODEL --data DATA",
        "hasten apply MODEL --recipe recipe.yaml --data DATA -o FILE.onnx",
        "At the end: 3.42× faster (95 % interval 3.32× to 3.52×) beside the other finalists; refused",
        "3.18× faster (95 % interval 3.08× to 3.28×) beside the other finalists; confirmed",
        "1.55× faster (95 % interval 1.50× to 1.60×) beside the other finalists; one before it was confirmed",
        parts.SHA,
    ):
        assert said in prose, said


def test_what_was_kept_says_why_and_what_came_closest() -> None:
    prose = Page(render(records.kept())).prose
    assert "Original kept" in prose
    assert "Why the original was kept" in prose
    assert "no VNNI and no AMX" in prose
    assert "Fastest within the quality budget optimize_graph onnxruntime, threads=2" in prose
    assert "1.01×, indistinguishable [0.98× to 1.04×]" in prose
    assert "Saved" not in prose


def test_a_speed_that_cannot_be_told_apart_is_not_called_faster() -> None:
    page = Page(render(records.smaller()))
    assert "Why it is not faster" in page.prose
    assert "the original's speed, indistinguishable from it" in page.prose
    assert "size on disk, MB" in page.prose


def test_what_answers_more_samples_a_second_is_not_called_slow_for_its_latency() -> None:
    made = records.smaller()
    budget = made.budget.model_copy(update={"objective": "throughput"})
    prose = Page(render(made.model_copy(update={"budget": budget, "verdict": "faster"}))).prose
    assert "3.32× the throughput" in prose
    assert "Why it is not faster" not in prose


def test_no_note_calls_a_ratio_above_1_faster_as_a_slower_one_is_turned_over() -> None:
    made = records.record()
    first, *rest = made.trials
    slow = first.model_copy(update={"speedup": parts.ratio(0.5)})
    prose = Page(render(made.model_copy(update={"trials": (slow, *rest)}))).prose
    assert "2.00× slower" in prose
    assert "above 1 is faster" not in prose


def test_a_score_of_the_users_own_without_labels_is_not_called_agreement() -> None:
    made = records.unlabelled()
    assert made.best is not None
    assert made.best.holdout.quality is not None
    own = made.best.holdout.quality.model_copy(update={"metric": "sharpness"})
    holdout = made.best.holdout.model_copy(update={"quality": own})
    page = render(made.model_copy(update={"best": made.best.model_copy(update={"holdout": holdout})}))
    assert "agreement with the original" not in Page(page).prose


def test_no_note_denies_throughput_the_interval_that_stands_beside_it() -> None:
    prose = Page(render(records.record())).prose
    assert "Throughput under full load, median and 95 % interval" in prose
    assert "load time, percentiles and peak memory were taken without an interval" in prose


def test_a_single_candidate_that_was_tried_is_singular() -> None:
    made = records.record()
    only = made.model_copy(update={"considered": made.considered[:1]})
    assert "Every candidate that came into question was tried." in Page(render(only)).prose


def test_agreement_is_never_called_accuracy_and_not_proven_is_said() -> None:
    prose = Page(render(records.unlabelled())).prose
    assert "There were no labels: quality means agreement with the original" in prose
    assert "99.10 % top-1 agreement with the original" in prose
    assert "within budget on the sample, not proven" in prose
    assert "about 3,400 samples would settle it" in prose


def test_without_trials_nothing_is_invented() -> None:
    prose = Page(render(records.minimal())).prose
    assert "No candidate was tried, so the original is what was saved." in prose
    assert "there is nothing to plot" in prose
    assert "None" not in prose
    assert "nan" not in prose


def test_every_trial_has_its_row_and_every_measured_one_its_mark() -> None:
    made = records.many()
    page = Page(render(made))
    bodies = [a for tag, a in page.elements if tag == "tbody" and "data-kind" in a]
    assert len(bodies) == len(made.trials) + 1
    marks = [a for tag, a in page.elements if "point" in a.get("class", "").split()]
    measured = [t for t in (made.baseline, *made.trials) if t.quality and t.latency_ms]
    assert len(marks) == len(measured) + 2  # the holdout's and the source's


@pytest.mark.parametrize("prefix", HOSTILE)
@pytest.mark.parametrize("variant", ["faster", "kept", "unlabelled"])
def test_no_name_becomes_markup(variant: str, prefix: str) -> None:
    made = records.VARIANTS[variant]()
    harmless = "q" * len(prefix)
    benign, hostile = (Page(render(records.renamed(made, p))) for p in (harmless, prefix))
    assert hostile.faults == []
    assert [(tag, list(attrs)) for tag, attrs in hostile.elements] == [
        (tag, list(attrs)) for tag, attrs in benign.elements
    ]
    for name in ("href", "class", "id"):
        assert hostile.values(name) == benign.values(name)
    shown = re.sub(r"\s+", " ", prefix)
    written = hostile.prose.replace("''", "'")  # YAML doubles the quotes inside a quoted name
    assert written.count(shown) >= benign.prose.count(harmless) > 100


def test_names_in_any_script_are_kept() -> None:
    page = Page(render(records.renamed(records.record(), "模型_卷积é🙂 ")))
    assert "模型_卷积é🙂 example_net.onnx" in page.prose


def test_a_record_that_names_a_missing_trial_is_refused() -> None:
    made = records.record(trials=())
    with pytest.raises(RecordError, match="t4"):
        render(made)


def test_write_is_whole_or_not_at_all(tmp_path: Path) -> None:
    made = records.record()
    path = tmp_path / "report.html"
    write(made, path)
    assert path.read_text(encoding="utf-8") == render(made)
    with pytest.raises(RecordError):
        write(records.record(trials=()), path)
    assert path.read_text(encoding="utf-8") == render(made)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_write_says_what_to_do_where_it_cannot(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="give a folder that exists"):
        write(records.record(), tmp_path / "missing" / "report.html")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OutputError, match=r"report\.html"):
        write(records.record(), tmp_path / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_long_tables_of_hyper_parameters_are_not_written_out() -> None:
    times = {f"layer_{number}": 4.5 for number in range(50)}
    steps = [Step("prune_channels", {"macs": 0.7, "times": times}), Step("factorize", {"times": {"a": 1.0}})]
    made = parts.trial("t1", steps, "openvino")
    assert (
        rows.parameters(made) == "prune_channels: macs=0.7, times=(50 entries); factorize: times={'a': 1.0}"
    )
