"""The report of an audit: as lines for people, as a JSON document for scripts."""

from dataclasses import asdict, dataclass
from typing import Any

from vv.audit import formatting, invariants
from vv.audit.fixes import propose
from vv.audit.run import Report, Violation

_SHOWN_MAX = 20
# These cannot hold for charges made at a gateway whose ledger was not read.
_COMPARE_WITH_THE_GATEWAY = {
    invariant.__name__
    for invariant in (
        invariants.the_gateway_charged_what_we_captured,
        invariants.the_gateway_refunded_what_we_did,
        invariants.charges_that_were_given_up_are_cancelled,
    )
}


@dataclass(frozen=True)
class Repair:
    """The outcome of the repair of a violation, in a sentence."""

    violation: Violation
    outcome: str


def report_document(report: Report, repairs: list[Repair] | None = None) -> dict[str, Any]:
    """The report, each violation with its rows and the proposed fix; with ``repairs`` if repairs were asked for."""
    document = {
        "clean": report.is_clean,
        "invariants": report.invariants,
        "skus": report.skus,
        "orders": report.orders,
        "payments": report.payments,
        "found": report.found,
        "hint": hint(report),
        "violations": [_violation_document(violation) for violation in report.violations],
    }
    if repairs is not None:
        document["repairs"] = [
            {"invariant": one.violation.invariant, "subject": one.violation.subject, "outcome": one.outcome}
            for one in repairs
        ]
    return document


def hint(report: Report) -> str | None:
    """What may explain false alarms, in a sentence."""
    if report.gateway_url is not None or not _COMPARE_WITH_THE_GATEWAY & report.found.keys():
        return None
    return (
        "Payments were compared with the table of the sandbox, and with no ledger of a gateway. If they were made at a "
        "gateway (PAYMENT_GATEWAY_URL), name it and audit again: vv audit --gateway-url URL"
    )


def _violation_document(violation: Violation) -> dict[str, Any]:
    proposal = propose(violation)
    return {
        "invariant": violation.invariant,
        "subject": violation.subject,
        "problem": violation.problem,
        "rows": asdict(violation.facts),
        "proposal": {
            "sentence": proposal.sentence,
            "change": proposal.change.to_json() if proposal.change else None,
        },
    }


def report_lines(report: Report) -> list[str]:
    """A line for each invariant, followed by its violations."""
    lines = [f"Audited {report.orders} orders, {report.payments} payments and {report.skus} SKUs."]
    for name in report.invariants:
        found = report.found.get(name, 0)
        violations = [violation for violation in report.violations if violation.invariant == name][:_SHOWN_MAX]
        lines.append(f"  {'VIOLATED' if found else 'ok':<9} {name}")
        lines += [line for violation in violations for line in violation_lines(violation)]
        if found > len(violations):
            lines.append(f"            … and {found - len(violations)} more (the first thousand of them with --json)")
    if report.is_clean:
        return [*lines, "The books are clean."]
    lines.append(f"{sum(report.found.values())} violations. What can be repaired safely: vv audit --repair")
    hinted = hint(report)
    return lines if hinted is None else [*lines, f"Hint: {hinted}"]


def violation_lines(violation: Violation) -> list[str]:
    """What is wrong, the rows that show it, and the proposed fix."""
    proposal = propose(violation)
    return [
        f"            {violation.subject}: {violation.problem}",
        f"              {formatting.row(violation.facts)}",
        f"              Proposed: {proposal.sentence}",
        *(f"                {line}" for line in (proposal.change.lines if proposal.change else ())),
    ]
