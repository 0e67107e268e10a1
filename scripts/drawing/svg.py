"""An SVG picture of boxes, arrows and texts, on a card of its own so that it can be read on any page."""

from __future__ import annotations

import html
import math

_STYLE = """
.card { fill: #ffffff; stroke: #d5d9e0; }
text { fill: #1d2530; font: 14px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; text-anchor: middle; }
.soft { fill: #5c6776; font-size: 12px; }
.strong { font-weight: 600; }
.math { font-family: Georgia, "Times New Roman", serif; font-style: italic; font-size: 16px; }
.left { text-anchor: start; } .right { text-anchor: end; }
.node { fill: #f1f4f8; stroke: #8a95a5; stroke-width: 1.5; }
.line { fill: none; stroke: #5c6776; stroke-width: 1.8; }
.wait { fill: none; stroke: #8a95a5; stroke-width: 1.5; stroke-dasharray: 2 5; }
.tip { fill: #5c6776; }
.a { fill: #9cc9f5; stroke: #2c6fb3; } .b { fill: #f8c98c; stroke: #b3701d; }
.c { fill: #a9dcae; stroke: #38853f; } .d { fill: #dfb6ec; stroke: #8b4ba3; }
.on { fill: #1d2530; }
@media (prefers-color-scheme: dark) {
  .card { fill: #161b22; stroke: #343c47; }
  text { fill: #e8edf3; } .soft { fill: #a5b0be; } .on { fill: #1d2530; }
  .node { fill: #232b36; stroke: #7d8896; }
  .line { stroke: #a5b0be; } .wait { stroke: #7d8896; } .tip { fill: #a5b0be; }
}
"""
_TIP = 9.0  # length of an arrow's head


class Picture:
    """Shapes are drawn in the order in which they are added. Places are in pixels, from the top left corner."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._width, self._height, self._title = width, height, title
        self._parts: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, kind: str = "node", *, radius: float = 8) -> None:
        self._parts.append(
            f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}"/>'
        )

    def text(self, x: float, y: float, text: str, kind: str = "") -> None:
        """`text` may hold `_` before a character that stands lower, as in w_1."""
        first, *lowered = html.escape(text, quote=False).split("_")
        shown = first + "".join(
            f'<tspan dy="4" font-size="11">{part[:1]}</tspan><tspan dy="-4">{part[1:]}</tspan>' for part in lowered
        )
        self._parts.append(f'<text class="{kind}" x="{x:g}" y="{y:g}">{shown}</text>')

    def cell(self, x: float, y: float, text: str, kind: str, *, width: float = 40) -> None:
        """A part of an array, in the middle of `x`."""
        self.box(x - width / 2, y, width, 32, kind, radius=3)
        self.text(x, y + 21, text, "on")

    def line(self, x: float, y: float, to_x: float, to_y: float, kind: str = "line") -> None:
        self._parts.append(f'<path class="{kind}" d="M{x:.4g} {y:.4g}L{to_x:.4g} {to_y:.4g}"/>')

    def arrow(self, x: float, y: float, to_x: float, to_y: float) -> None:
        far = math.hypot(to_x - x, to_y - y)
        over, down = (to_x - x) / far, (to_y - y) / far
        foot_x, foot_y = to_x - _TIP * over, to_y - _TIP * down
        side_x, side_y = -down * _TIP / 2.2, over * _TIP / 2.2
        self.line(x, y, foot_x, foot_y)
        corners = ((to_x, to_y), (foot_x + side_x, foot_y + side_y), (foot_x - side_x, foot_y - side_y))
        self._parts.append(f'<path class="tip" d="M{"L".join(f"{a:.1f} {b:.1f}" for a, b in corners)}Z"/>')

    def __str__(self) -> str:
        width, height = self._width, self._height
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img">\n<title>{html.escape(self._title)}</title>\n<style>{_STYLE}</style>\n'
            f'<rect class="card" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="10"/>\n'
            + "\n".join(self._parts)
            + "\n</svg>\n"
        )
