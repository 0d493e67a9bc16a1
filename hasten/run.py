"""The story: load, split, measure the original, propose and try, choose, confirm on the holdout, save."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import monotonic

from hasten.core.record import Considered, RunRecord, Trial
from hasten.core.target import usable_cores
from hasten.deliver import write_result
from hasten.measuring import Conditions
from hasten.search.advise import Advice, advise, given
from hasten.search.assemble import Findings, assemble
from hasten.search.candidate import Candidate
from hasten.search.choose import leader
from hasten.search.explain import OUT_OF_TIME
from hasten.search.families import families
from hasten.search.final import confirm, finalists
from hasten.search.journal import Journal
from hasten.search.learn import teaches
from hasten.search.original import measure_original
from hasten.search.prepare import Prepared, prepare, probe_shapes
from hasten.search.propose import Proposer
from hasten.search.request import Event, Listener, Request, silent
from hasten.search.trial import Lab
from hasten.search.witness import Witness

FINAL_SHARE = 0.2
"""Part of the time budget kept for the last comparison and the holdout."""
_FINAL_TIMINGS = 4
"""The last comparison is of up to four subjects and takes twice the time of one pair, the claim once; the
fourth part is for the holdout."""
_LONGEST_TIMING_S = 30.0
_TRIAL_SHARE = 0.04
"""Part of the time budget that timing one trial may take: a small budget is better spent on more trials,
since the finalists are timed again, and longer."""


def optimize(request: Request, listener: Listener = silent) -> tuple[RunRecord, Path]:
    """The fastest version within the budget, with its evidence: the record, and the folder of the result.

    Raises InputError for a model, data or settings that cannot be used. A candidate that fails is a failed
    trial; a run in which nothing qualifies returns the original with the reasons.
    """
    began = monotonic()
    deadline = began + request.budget.time_s * (1 - FINAL_SHARE)
    threads = request.threads or usable_cores()
    conditions = Conditions(
        batch=request.batch,
        threads=threads,
        seed=request.seed,
        throughput=request.budget.objective == "throughput",
        time_limit_s=min(Conditions.time_limit_s, _TRIAL_SHARE * request.budget.time_s),
    )
    journal = Journal(request.folder)
    journal.claim(request.resume)

    listener(Event("loading the model and the data"))
    prepared = prepare(request, threads)
    with closing(prepared.workshop):
        known = (journal.resume if request.resume else journal.begin)(prepared.identity)
        listener(Event("measuring the original"))
        lab, baseline, source = measure_original(prepared, request, conditions)

        advice = _advice(request, prepared, threads)
        proposer = Proposer(
            lab=lab,
            advice=advice,
            baseline=baseline,
            threads=request.threads,
            shapes={} if request.recipe else probe_shapes(prepared, request.batch),
            samples=len(prepared.roles.calibration),
            deadline=deadline,
            labelled=teaches(prepared.roles.calibration, lab.metric),
            structures=() if request.recipe else families(prepared.facts),
        )
        tried = try_all(proposer, lab, journal, known, listener)
        trials = tuple(trial for _, trial in tried.values())

        final = _with_longer_timings(lab, request)
        listener(Event("comparing the best side by side"))
        candidates = {name: candidate for name, (candidate, _) in tried.items()}
        chosen = finalists(final, baseline, trials, candidates)
        listener(Event("confirming on the holdout"))
        outcome = confirm(final, prepared.roles.holdout, chosen, tried)
        found = Findings(
            baseline=baseline,
            source=source,
            considered=tuple(_considered(advice, candidates)),
            blocks=proposer.alignment.measured,
            trials=trials,
            outcome=outcome,
        )
        record = assemble(request, prepared, lab, found)
        record = record.model_copy(update={"seconds": round(monotonic() - began, 1)})
        subject = lab.subject(candidates[outcome.best.id]) if outcome.best else lab.baseline
        witness = Witness(lab.selection, lab.predictions(subject, lab.selection).store, prepared.graph.inputs)
        result = request.folder / "result"
        return write_result(record, subject, witness, result), result


def try_all(
    proposer: Proposer, lab: Lab, journal: Journal, known: Mapping[str, Trial], listener: Listener
) -> dict[str, tuple[Candidate, Trial]]:
    """Try what is proposed until the time is spent; every finished trial is journaled at once.

    known: trials of a run that was cut off; they are taken as they are and not repeated.
    """
    tried: dict[str, tuple[Candidate, Trial]] = {}
    trials: list[Trial] = []
    for candidate in proposer.propose(trials):
        if candidate.id in tried:
            continue
        if trials and monotonic() > proposer.deadline and candidate.id not in known:
            listener(Event("the time budget is spent; what was not tried is listed in the record"))
            break
        best = leader(trials, proposer.baseline, lab.budget)
        listener(Event(str(candidate), best=best, seconds_left=proposer.deadline - monotonic()))
        trial = known.get(candidate.id) or lab.run(candidate)
        if candidate.id not in known:
            journal.add(trial)
        tried[candidate.id] = candidate, trial
        trials.append(trial)
        listener(Event(str(candidate), trial=trial, best=leader(trials, proposer.baseline, lab.budget)))
    return tried


def _with_longer_timings(lab: Lab, request: Request) -> Lab:
    """The lab for the last comparison, which decides and is claimed, so it is timed longer than a trial."""
    share_s = FINAL_SHARE * request.budget.time_s / _FINAL_TIMINGS
    limit_s = min(_LONGEST_TIMING_S, max(lab.conditions.time_limit_s, share_s))
    return replace(lab, conditions=replace(lab.conditions, time_limit_s=limit_s))


def _advice(request: Request, prepared: Prepared, threads: int) -> Advice:
    """What the facts suggest; with a recipe of the user's, that recipe on every target."""
    objective = request.budget.objective
    if request.recipe is not None:
        return given(request.recipe, prepared.specs, threads, objective)
    has_data = len(prepared.roles.calibration) > 0
    return advise(prepared.facts, prepared.specs, threads, has_data=has_data, objective=objective)


def _considered(advice: Advice, tried: Mapping[str, Candidate]) -> Iterable[Considered]:
    """What was considered, with those that the time budget left untried marked so."""
    planned = iter(advice.candidates)
    for entry in advice.considered:
        if entry.tried and next(planned).id not in tried:
            yield entry.model_copy(update={"tried": False, "reason": OUT_OF_TIME})
        else:
            yield entry
