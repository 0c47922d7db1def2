"""The page of installed versions: a chart and tables of which versions ask for updates."""

from __future__ import annotations

import sqlite3
from collections import Counter
from datetime import date
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence

from .. import fleet, releases
from ..database import precedence_key
from ..fleet import OTHER, Daily, Share
from ..releases import rfc3339
from ..responses import Answer
from .chart import Series, stacked
from .markup import Html, join
from .page import PageRequest, percent

DAYS = 30
MAX_ROWS = 100
SHOWN = 7  # versions with an area of their own; the rest is one more

PAGE = """<section class="panel"><p class="adoption">{adoption}</p>
<div class="chart">{chart}</div><ul class="legend">{legend}</ul>
<p class="hint">[[How often clients asked for updates, by the version they have installed. A client
asks at each start; who asks is not recorded.]]</p></section>
<section class="panel"><h2>[[Versions]]</h2><table><thead><tr><th scope="col">[[Version]]</th><th
scope="col" class="n">[[30 days]]</th><th scope="col" class="n">[[7 days]]</th><th scope="col"
class="n">[[Today]]</th><th scope="col" class="n">[[Share today]]</th></tr></thead>
<tbody>{versions}</tbody></table></section>
<details class="panel"><summary>[[The chart's figures, day by day]]</summary><div class="wide"
tabindex="0" role="region" aria-label="[[Days]]"><table><thead><tr><th
scope="col">[[Day]]</th>{names}</tr></thead><tbody>{days}</tbody></table></div></details>"""
EMPTY = (
    '<div class="panel"><p>[[No client of this channel has asked for updates in the last 30 '
    "days. Clients that do are counted by their installed version; who they are is not "
    "recorded.]]</p></div>"
)

VERSION = """<tr data-version="{name}"><td>{name}<td class="n">{month}<td class="n">{week}<td
class="n">{today}<td class="n">{share}"""
AREA = '<li class="s{number}">{name}</li>'
COLUMN = '<th scope="col" class="n">{name}</th>'
LINE = '<tr><th scope="row">{day}</th>{cells}'
CELL = '<td class="n">{asked}'


class Adoption(NamedTuple):
    """How far the active release has come.

    `asked` of `of` requests on the last day with figures; `half_days` until half asked with it,
    None if they have not.
    """

    version: str
    asked: int
    of: int
    half_days: Optional[int]


def show(request: PageRequest) -> Answer:
    """The chart, the table below it, and the active release's share."""
    request.fleet.flush()
    with request.store.database.read() as db:
        figures = fleet.daily(db, request.channel, DAYS)
        active = releases.active(db, request.channel)
        shares = fleet.shares(db, request.channel, active.canonical) if active else []
        since = _activated(db, request.channel, active.version) if active else None
        names = dict(
            db.execute(
                "SELECT canonical, version FROM releases WHERE channel = ?", (request.channel,)
            )
        )
    days = [fleet.utc_day(ago) for ago in reversed(range(DAYS))]
    if not figures:
        return request.render_page("Installed versions", request.html(EMPTY))
    names[OTHER] = request.say("others")
    series = [
        one._replace(name=names.get(one.name, one.name))
        for one in stack(figures, days, active.canonical if active else "")
    ]
    return request.render_page(
        "Installed versions",
        request.html(
            PAGE,
            adoption=_said(request, adoption(shares, active.version, since)) if active else "",
            chart=stacked(
                request.say("Requests for updates in the last 30 days, by installed version"),
                [day[5:] for day in days],
                series,
            ),
            legend=join(
                request.html(AREA, number=number, name=one.name)
                for number, one in enumerate(series)
            ),
            versions=_versions(request, figures, names),
            names=join(request.html(COLUMN, name=one.name) for one in series),
            days=join(
                request.html(
                    LINE, day=day, cells=join(request.html(CELL, asked=asked) for asked in column)
                )
                for day, column in zip(days, zip(*(one.values for one in series)))
            ),
        ),
    )


def stack(figures: Sequence[Daily], days: Sequence[str], active: str) -> List[Series]:
    """The chart's series by canonical version: active first, then by requests, the rest as one."""
    totals = _totals(figures)
    totals.pop(OTHER, None)
    order = sorted(totals, key=lambda version: (version != active, -totals[version], version))
    own, at = order[:SHOWN], {day: number for number, day in enumerate(days)}
    values: Dict[str, List[int]] = {name: [0] * len(days) for name in [*own, OTHER]}
    for figure in figures:
        if figure.day in at:
            values[figure.version if figure.version in own else OTHER][at[figure.day]] += (
                figure.asked
            )
    return [
        Series(name, values[name]) for name in [*own, OTHER] if name != OTHER or any(values[OTHER])
    ]


def adoption(shares: Sequence[Share], version: str, since: Optional[str]) -> Adoption:
    """How far the active release has come by its shares; `since` is the day it was activated."""
    half = next(
        (
            (date.fromisoformat(share.day) - date.fromisoformat(since)).days
            for share in shares
            if since is not None and share.day >= since and 2 * share.asked >= share.of
        ),
        None,
    )
    return Adoption(version, shares[-1].asked, shares[-1].of, half)


def _said(request: PageRequest, found: Adoption) -> Html:
    if found.half_days is None:
        half = request.html("[[It has not reached half of them yet.]]")
    elif found.half_days < 1:
        half = request.html("[[It had half of them on its first day.]]")
    else:
        half = request.html("[[It took {days} days to reach half of them.]]", days=found.half_days)
    share = request.html(
        "[[The active version {version} has {share} of the requests.]]",
        version=found.version,
        share=percent(found.asked, found.of),
    )
    return Html(f"<strong>{share}</strong> {half}")


def _versions(request: PageRequest, figures: Sequence[Daily], names: Dict[str, str]) -> Html:
    """A row for each version, newest first."""
    today, week = fleet.utc_day(), fleet.utc_day(7)
    month, days, now = (
        _totals(figures),
        _totals(one for one in figures if one.day > week),
        _totals(one for one in figures if one.day == today),
    )
    order = sorted(
        month, key=lambda version: precedence_key(version) if version else "", reverse=True
    )
    return join(
        request.html(
            VERSION,
            name=names.get(version, version),
            month=f"{month[version]:,}",
            week=f"{days[version]:,}",
            today=f"{now[version]:,}",
            share=percent(now[version], sum(now.values())),
        )
        for version in order[:MAX_ROWS]
    )


def _totals(figures: Iterable[Daily]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for figure in figures:
        totals[figure.version] += figure.asked
    return totals


def _activated(db: sqlite3.Connection, channel: str, version: str) -> Optional[str]:
    """The day on which the active release became so, from the log."""
    row = db.execute(
        "SELECT at FROM log WHERE action = 'activate' AND detail = ? ORDER BY id DESC LIMIT 1",
        (f"{channel} {version}",),
    ).fetchone()
    return rfc3339(row[0])[:10] if row else None
