"""Markdown: the report as text that reads well before it is rendered."""

import re

from pennyweight.experiments.facts import Facts, Grid, Section, Written

SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~])")


def plain(text: str) -> str:
    """The text with nothing in it that Markdown or HTML would take for markup, on one line."""
    return SPECIAL.sub(r"\\\1", re.sub(r"\s+", " ", text)).replace("\\<", "&lt;").replace("\\>", "&gt;")


def code(text: str) -> str:
    """A block of code that its content cannot close."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def grid(table: Grid) -> str:
    """A table with every cell on its line."""
    header, lines = table
    rows = [header, tuple("---" for _ in header), *lines]
    return "\n".join(
        "| " + " | ".join(cell if cell == "---" else plain(cell.replace("\n", ", ")) for cell in row) + " |"
        for row in rows
    )


def bullets(lines: tuple[str, ...]) -> str:
    """A list, one line each."""
    return "\n".join(f"- {plain(line)}" for line in lines)


def _section(section: Section) -> list[str]:
    parts = [plain(section.summary), bullets(section.headlines), grid(section.comparison)]
    if section.memory[1]:
        parts += ["### Memory by category, predicted and measured", grid(section.memory)]
    return [*parts, "### Every run", grid(section.runs)]


def _recipe(written: Written) -> list[str]:
    said = (
        *(f"{written.name} {line}" for line in written.shares),
        *(f"Not converted: {line}" for line in written.exceptions),
        *written.notes,
    )
    return [f"### {plain(written.name)}", grid(written.grid), bullets(said)]


def markdown(facts: Facts) -> str:
    """The whole report."""
    parts = [f"# {plain(facts.title)}", bullets(facts.warnings)]
    for place, section in enumerate(facts.sections, 1):
        heading = ("Result" if section.table.alone else "What each recipe costs") + (
            f" (data {place})" if len(facts.sections) > 1 else ""
        )
        parts += [f"## {heading}", *_section(section)]
    if facts.guard:
        parts += ["## What the guard saw", bullets(tuple(f"{one.name}:{one.said}" for one in facts.guard))]
    if facts.seen:
        told = tuple(f"{one.name}: {' '.join(one.said)}" for one in facts.seen)
        parts += ["## What diagnosis saw (maps in report.html)", bullets(told)]
    parts.append("## What each recipe writes")
    for written in facts.recipes:
        parts += _recipe(written)
    parts += ["## Machine and versions", grid((("what", "value"), list(facts.machine)))]
    parts += ["## To reproduce", code("\n".join(facts.commands))]
    notes = (
        "Differences are paired by seed; ± is the standard deviation over seeds, brackets are 95 % t-intervals.",
        "The cost counts the larger of the recipe's own validation loss and that of the model as saved.",
        "As saved: of the plain model in model/, its weights as the recipe writes them.",
        f"Peak memory: {facts.peak}.",
        f"The same numbers for machines: {facts.files}.",
    )
    alone = all(section.table.alone for section in facts.sections)
    return "\n\n".join(part for part in [*parts, bullets(notes[2:] if alone else notes)] if part) + "\n"
