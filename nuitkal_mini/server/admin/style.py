"""The style sheet: one column of panels, light and dark as the reader's system is set.

Tables become cards on a phone.
"""

from __future__ import annotations

import hashlib

TYPE = "text/css; charset=utf-8"
BODY = b"""
:root {
  color-scheme: light dark; --page: #f5f6f8; --panel: #fff; --text: #1b1f24; --soft: #59626d;
  --line: #d6dae0; --link: #0b5cad; --primary: #0b5cad; --on-primary: #fff; --danger: #b3261e;
  --good: #0d6b3f; --good-back: #e3f4ea; --bad-back: #fdeceb; --warn: #7a4d00;
  --warn-back: #fff4dc; --row: #eef6f1; --s0: #0072b2; --s1: #e69f00; --s2: #009e73; --s3: #cc79a7;
  --s4: #56b4e9; --s5: #d55e00; --s6: #4d4d4d; --s7: #999;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --panel: #1d2126; --text: #e7eaee; --soft: #a2abb6; --line: #363c44;
    --link: #7db9f5; --primary: #7db9f5; --on-primary: #0c1a28; --danger: #ff9a90; --good: #7fd6a5;
    --good-back: #17301f; --bad-back: #3a1c1a; --warn: #f3c66b; --warn-back: #35290f;
    --row: #1c2b23; --s6: #f0e442;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "PingFang SC",
    "Microsoft YaHei", "Noto Sans CJK SC", sans-serif;
}
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; border-radius: 3px; }
.skip { position: absolute; left: -999px; }
.skip:focus { left: 8px; top: 8px; background: var(--panel); padding: 8px; z-index: 1; }

header {
  display: flex; flex-wrap: wrap; align-items: center; gap: 6px 20px;
  padding: 8px max(16px, calc((100% - 1148px) / 2)); background: var(--panel);
  border-bottom: 1px solid var(--line);
}
header nav { flex: 1 1 420px; }
nav ul {
  display: flex; flex-wrap: wrap; gap: 2px; list-style: none; margin: 0 0 0 -10px; padding: 0;
}
nav ul a {
  display: block; padding: 6px 10px; border-radius: 6px; text-decoration: none; color: var(--text);
}
nav ul a:hover { background: var(--page); }
nav ul a[aria-current] {
  color: var(--link); box-shadow: inset 0 -2px var(--link); border-radius: 0;
}
header form, header p { display: flex; align-items: center; gap: 8px; margin: 0; }
header label, .logout span { color: var(--soft); font-weight: 400; margin: 0; }
.language { margin-left: auto; }
main { max-width: 1180px; margin: 0 auto; padding: 12px 16px 48px; }
h1 { font-size: 24px; line-height: 1.25; margin: 16px 0; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0 0 12px; }

.panel {
  display: block; background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: 16px 20px; margin: 0 0 16px;
}
.panel > :first-child, .notice > :first-child, .panel > [type=hidden] + * { margin-top: 0; }
.panel > :last-child { margin-bottom: 0; }
.narrow { max-width: 380px; }
.notice, .error, .warning {
  border-radius: 6px; padding: 10px 14px; margin: 0 0 16px; overflow-wrap: anywhere;
}
.notice { background: var(--good-back); color: var(--good); }
.error { background: var(--bad-back); color: var(--danger); }
.warning { background: var(--warn-back); color: var(--warn); }
.hint { color: var(--soft); font-size: 13px; }

label { display: block; font-weight: 600; margin: 0 0 4px; }
[type=checkbox] + label { display: inline; font-weight: 400; }
input, select, textarea, button, .button {
  font: inherit; color: inherit; background: var(--panel); border: 1px solid #868e99;
  border-radius: 6px; padding: 5px 10px; max-width: 100%;
}
input:not([type=checkbox]):not([type=file]) { width: 100%; max-width: 420px; }
textarea { width: 100%; }
.inline p { display: flex; flex-wrap: wrap; gap: 4px 8px; }
.inline label { flex: 1 1 100%; }
input[type=file] { border-style: dashed; width: 100%; max-width: 640px; padding: 10px; }
textarea { resize: vertical; }
[type=checkbox] { width: 18px; height: 18px; vertical-align: -4px; accent-color: var(--primary); }
.drop.over input { border-color: var(--link); background: var(--good-back); }
button, .button {
  display: inline-flex; align-items: center; justify-content: center; cursor: pointer;
  text-decoration: none; line-height: 1.5; white-space: nowrap;
}
button:hover, .button:hover { border-color: var(--text); }
button:disabled { opacity: .6; cursor: default; }
.primary {
  background: var(--primary); border-color: var(--primary); color: var(--on-primary);
  font-weight: 600;
}
.danger, [value=delete], [value=revoke], [value=disable] { color: var(--danger); }
progress { width: 200px; vertical-align: middle; accent-color: var(--primary); }
summary { cursor: pointer; font-weight: 600; }
details[open] summary { margin-bottom: 12px; }
.search { display: flex; flex-wrap: wrap; align-items: center; gap: 8px; margin: 0 0 12px; }
.search > div { display: flex; align-items: center; gap: 8px; }
.search label { margin: 0; }
.search input:not([type=checkbox]) { width: 220px; }
.search .primary { margin-left: auto; }
.actions, .downloads { display: flex; flex-wrap: wrap; gap: 8px; }
.actions { margin-top: 16px; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 16px; align-items: start; }
[hidden] { display: none !important; }

table { width: 100%; border-collapse: collapse; background: var(--panel); font-size: 14px; }
.cards {
  border: 1px solid var(--line); border-radius: 8px; border-collapse: separate; border-spacing: 0;
  margin: 0 0 16px;
}
th, td {
  text-align: left; padding: 7px 12px; border-bottom: 1px solid var(--line);
  vertical-align: middle;
}
tr:last-child > td { border-bottom: 0; }
thead th { color: var(--soft); font-size: 13px; white-space: nowrap; }
tbody th { font-weight: 400; white-space: nowrap; }
thead a { color: inherit; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
time { white-space: nowrap; }
.line { max-width: 320px; overflow-wrap: anywhere; }
td:first-child { overflow-wrap: anywhere; }
.key, code {
  font-family: ui-monospace, Consolas, "Liberation Mono", monospace; font-size: 13px;
  overflow-wrap: anywhere;
}
td.key { white-space: nowrap; }
.do { text-align: right; }
.do form { display: flex; gap: 6px; justify-content: flex-end; }
.do button { padding: 2px 8px; font-size: 13px; }
tr.active { background: var(--row); }
tr.removed td:first-child { text-decoration: line-through; }
tr.new, tr.changed { font-weight: 600; }
.badge {
  display: inline-block; background: var(--good-back); color: var(--good);
  border: 1px solid currentcolor; border-radius: 99px; font-size: 12px; line-height: 1.4;
  font-weight: 600; padding: 0 8px; vertical-align: 2px;
}
.badge.off { background: var(--bad-back); color: var(--danger); }
.label, td i { display: none; font-style: normal; }
.pages { display: flex; gap: 16px; justify-content: center; }

.facts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 12px 20px;
  margin: 16px 0;
}
.facts div { min-width: 0; }
.facts div:has(code) { grid-column: 1 / -1; }
dt { color: var(--soft); font-size: 13px; }
dd { margin: 0; overflow-wrap: anywhere; }
dd time { display: inline-block; white-space: normal; }
pre { white-space: pre-wrap; background: var(--page); border-radius: 6px; padding: 12px; }
.copy { position: relative; }
.token { font-size: 15px; user-select: all; }

.wide { overflow-x: auto; }
.chart svg { display: block; width: 100%; }
svg text { font-size: 12px; fill: var(--soft); }
.x { text-anchor: middle; }
.y { text-anchor: end; }
.grid { stroke: var(--line); }
polygon { stroke: var(--panel); stroke-width: 1; }
.legend {
  display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; padding: 0; margin: 10px 0;
}
.legend li::before {
  content: ""; display: inline-block; width: 12px; height: 12px; border-radius: 3px;
  margin-right: 6px; vertical-align: -1px; background: var(--c);
}
.s0 { fill: var(--s0); --c: var(--s0); }
.s1 { fill: var(--s1); --c: var(--s1); }
.s2 { fill: var(--s2); --c: var(--s2); }
.s3 { fill: var(--s3); --c: var(--s3); }
.s4 { fill: var(--s4); --c: var(--s4); }
.s5 { fill: var(--s5); --c: var(--s5); }
.s6 { fill: var(--s6); --c: var(--s6); }
.s7 { fill: var(--s7); --c: var(--s7); }

header form, header select, .search > div { min-width: 0; }
header form { max-width: 100%; }
.path { overflow-wrap: anywhere; }
.badge { white-space: nowrap; }
@media (forced-colors: active) {
  .legend li::before { forced-color-adjust: none; }
  nav ul a[aria-current] { text-decoration: underline; }
  tr.active td:first-child { border-left: 4px solid; }
}
@media (max-width: 760px) {
  button, .button, input:not([type=checkbox]), select { min-height: 40px; }
  header { gap: 6px 14px; }
  header label { display: none; }
  .pair { display: block; }
  thead th { white-space: normal; }
  .panel th, .panel td { padding: 7px 4px; font-size: 13px; }
  .facts { grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); }
  svg text { font-size: 24px; }
  .panel { padding: 14px; }
  .search > div { flex: 1 1 100%; }
  .search input:not([type=checkbox]) {
    width: auto; min-width: 0; flex: 1 1 100px; max-width: none;
  }
  .search .primary { margin-left: 0; }
}
@media (max-width: 1040px) {
  .cards thead { display: none; }
  .cards, .cards tbody { display: block; background: none; border: 0; }
  .cards tr {
    display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 14px; background: var(--panel);
    border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; margin: 0 0 10px;
  }
  .cards tr.active { background: var(--row); border-color: var(--good); }
  .cards td { border: 0; padding: 0; text-align: left; color: var(--soft); }
  .cards td:first-child { flex: 1 1 100%; color: var(--text); font-size: 16px; font-weight: 600; }
  .cards .line { flex: 1 1 100%; max-width: none; color: var(--text); }
  .cards td:empty { display: none; }
  .cards .do { flex: 1 1 100%; margin-top: 8px; }
  .do form { justify-content: flex-start; }
  .do button { padding: 5px 12px; }
  .label, td i { display: inline; }
}
"""
NAME = f"static/{hashlib.sha256(BODY).hexdigest()[:12]}.css"
