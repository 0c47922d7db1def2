"""Stacked areas as SVG. Pure.

Colours are classes (`s0` to `s7`) of the style sheet, after Okabe and Ito's palette for
colour-blind readers; a thin line of the background separates areas without any colour.
"""

from __future__ import annotations

from typing import List, NamedTuple, Sequence

from .markup import Html, escape

WIDTH, HEIGHT = 900, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 36, 14, 36  # the last day's name reaches beyond the axis
TICKS = 4


class Series(NamedTuple):
    """An area: its name and a value for each point."""

    name: str
    values: Sequence[int]


def stacked(title: str, points: Sequence[str], series: Sequence[Series]) -> Html:
    """Areas stacked from the bottom up, as SVG; `points` are the names below the axis."""
    top = nice_top(max((sum(column) for column in zip(*(one.values for one in series))), default=0))
    floor = [0] * len(points)
    areas: List[str] = []
    for number, one in enumerate(series):
        roof = [low + value for low, value in zip(floor, one.values)]
        line = [f"{_x(at, len(points)):.1f},{_y(value, top):.1f}" for at, value in enumerate(roof)]
        back = [
            f"{_x(at, len(points)):.1f},{_y(value, top):.1f}"
            for at, value in reversed(list(enumerate(floor)))
        ]
        areas.append(
            f'<polygon class="s{number}" points="{" ".join(line + back)}">'
            f"<title>{escape(one.name)}</title></polygon>"
        )
        floor = roof
    return Html(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="chart-title"><title '
        f'id="chart-title">{escape(title)}</title>'
        f"{_grid(top)}{''.join(areas)}{_days(points)}</svg>"
    )


def nice_top(highest: int) -> int:
    """The axis' end: four round and whole steps that reach just above the highest value."""
    scale = 1
    while True:
        for tenths in (10, 15, 20, 25, 30, 40, 50, 60, 80):
            if tenths * scale % 10 == 0 and tenths * scale // 10 * TICKS >= highest:
                return tenths * scale // 10 * TICKS
        scale *= 10


def _grid(top: int) -> str:
    lines = []
    for tick in range(TICKS + 1):
        value = top * tick // TICKS
        y = _y(value, top)
        lines.append(
            f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/><text class="y" '
            f'x="{LEFT - 8}" y="{y + 4:.1f}">{short(value)}</text>'
        )
    return "".join(lines)


def _days(points: Sequence[str]) -> str:
    """A name every seventh point, the last one among them."""
    shown = range((len(points) - 1) % 7, len(points), 7)
    return "".join(
        f'<text class="x" x="{_x(at, len(points)):.1f}" '
        f'y="{HEIGHT - 8}">{escape(points[at])}</text>'
        for at in shown
    )


def short(value: int) -> str:
    """A number of an axis: 1500 is 1.5k."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return str(value)


def _x(at: int, count: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * at / max(1, count - 1)


def _y(value: int, top: int) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top
