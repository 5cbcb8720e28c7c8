"""Findings: the verdict of every claim of a study, whether its controls support them, and how sure all are together."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pennyweight.experiments.results import finite
from pennyweight.experiments.studies.certainty import chance, surviving
from pennyweight.experiments.studies.evidence import Evidence
from pennyweight.experiments.studies.study import FAILS, HOLDS, UNTOLD, Claim, Effect, Judged, Study

UNSUPPORTED = "unsupported: a control failed"


@dataclass(frozen=True)
class Found:
    """What became of one claim in one part of a study.

    supported:  whether the controls of the part hold
    together:   whether it stays decided when all intervals of the study are asked to hold at once (Holm, 5 %)
    """

    claim: Claim
    part: str
    judged: Judged
    supported: bool = True
    together: bool = False

    @property
    def verdict(self) -> str:
        """The verdict as it may be printed."""
        return self.judged.verdict if self.supported else f"{UNSUPPORTED} ({self.judged.verdict})"

    @property
    def decided(self) -> bool:
        """Whether the claim holds or does not, with the controls behind it."""
        return self.supported and self.judged.verdict != UNTOLD

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return finite(
            {
                "name": self.claim.name, "text": self.claim.text, "source": self.claim.source, "part": self.part,
                "verdict": self.judged.verdict, "supported": self.supported, "decided": self.decided,
                "decided_together": self.together, "said": self.judged.said,
                "effects": [{**asdict(one), "side": one.side, "answer": one.answer} for one in self.judged.effects],
            }
        )  # fmt: skip


@dataclass(frozen=True)
class Findings:
    """The controls and the claims of a study, those of its first part first."""

    controls: tuple[Found, ...]
    claims: tuple[Found, ...]

    @property
    def passed(self) -> bool:
        """Whether the study passed its own controls, all of them in every part."""
        return all(one.judged.verdict == HOLDS for one in self.controls)

    def count(self, verdict: str) -> int:
        """How many claims have a verdict that the controls support."""
        return sum(one.supported and one.judged.verdict == verdict for one in self.claims)


def find(study: Study, evidence: Sequence[tuple[str, Evidence]]) -> Findings:
    """Judges every claim by the evidence of each part, given with the part's label."""
    controls, claims = [], []
    for part, one in evidence:
        ours = [Found(control, part, told, together=True) for control in study.controls if (told := control.judge(one))]
        supported = bool(ours) and all(control.judged.verdict == HOLDS for control in ours)
        controls += ours
        claims += [Found(claim, part, told, supported) for claim in study.claims if (told := claim.judge(one))]
    return Findings(tuple(controls), tuple(_together(claims)))


def _together(claims: Sequence[Found]) -> list[Found]:
    """The claims with what Holm's procedure leaves of them, over every interval that any of them rests on."""
    effects = [(place, effect) for place, one in enumerate(claims) for effect in one.judged.effects if effect.values]
    kept = surviving([_chance(effect) for _, effect in effects])
    lost = {
        place
        for (place, effect), stays in zip(effects, kept, strict=True)
        if not stays and _needed(claims[place], effect)
    }
    return [replace(one, together=one.decided and place not in lost) for place, one in enumerate(claims)]


def _chance(effect: Effect) -> float | None:
    return None if effect.values is None else chance(effect.values, effect.limit)


def _needed(one: Found, effect: Effect) -> bool:
    """Whether a verdict rests on an effect's interval: one that holds on all, one that does not on those against it."""
    if 2 * effect.diverged > effect.seeds:
        return False  # it rests on runs that broke down
    return one.judged.verdict == HOLDS or (one.judged.verdict == FAILS and effect.answer is False)
