"""The chart: horizontal bars as SVG, legible on a light and on a dark page."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _LABELS, _NUMBERS = 860, 330, 150
_BAR, _GAP, _TOP, _BOTTOM = 18, 8, 44, 14
# Without a background of its own; the middle tones of the bars do on white and on black.
_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-size: 15px; font-weight: 600 }
  .number { font-variant-numeric: tabular-nums }
  .range { stroke: #24292f; stroke-width: 1.5 }
  .on { fill: #2f81f7 } .off { fill: #8b949e } .floor { fill: #bf8700 } .other { fill: #57ab5a }
  @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .range { stroke: #e6edf3 } }
"""


@dataclass(frozen=True)
class Bar:
    """A labelled number with the range that it came from; ``kind`` is ``on``, ``off``, ``floor`` or ``other``."""

    label: str
    kind: str
    value: float
    least: float
    most: float


def svg(title: str, bars: Sequence[Bar]) -> str:
    """The bars, one below the other, to one scale that begins at 0."""
    height = _TOP + len(bars) * (_BAR + _GAP) + _BOTTOM
    longest = max((bar.most for bar in bars), default=0) or 1
    scale = (_WIDTH - _LABELS - _NUMBERS) / longest
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">',
            f"<style>{_STYLE}</style>",
            f'<text class="title" x="8" y="24">{escape(title)}</text>',
            *(_bar(bar, _TOP + n * (_BAR + _GAP), scale) for n, bar in enumerate(bars)),
            "</svg>",
            "",
        ]
    )


def _bar(bar: Bar, y: int, scale: float) -> str:
    end, middle, text = _LABELS + bar.value * scale, y + _BAR / 2, y + 14
    least, most = _LABELS + bar.least * scale, _LABELS + bar.most * scale
    spread = f'<path class="range" d="M{least:.1f} {middle}H{most:.1f}"/>' if most - least > 1 else ""
    return (
        f'<text x="{_LABELS - 10}" y="{text}" text-anchor="end">{escape(bar.label)}</text>'
        f'<rect class="{bar.kind}" x="{_LABELS}" y="{y}" width="{end - _LABELS:.1f}" height="{_BAR}" rx="2"/>{spread}'
        f'<text class="number" x="{max(end, most) + 8:.1f}" y="{text}">{bar.value:,.0f}</text>'
    )
