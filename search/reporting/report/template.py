"""How the report looks: its template, its style and its script. It asks nothing of any network."""

STYLE = """\
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --faint: #6a6f76; --line: #d9dce0; --box: #f3f5f7;
  --accent: #0060a0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ec; --paper: #16181b; --faint: #a0a6ad; --line: #3a3f45;
  --box: #22262a; --accent: #7cc0f0; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 76rem;
  margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.1rem; font-weight: 600; color: var(--faint); margin: .5rem 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; padding-top: .6rem; border-top: 1px solid var(--line); }
#answer h2 { font-size: 1.8rem; line-height: 1.25; margin: .25rem 0 1rem; border: 0; padding: 0; }
h3 { font-size: 1.05rem; margin: 2rem 0 .25rem; }
p { margin: .5rem 0; max-width: 52rem; overflow-wrap: anywhere; }
a { color: var(--accent); }
nav { margin: 1.5rem 0 0; font-size: .9rem; }
nav a { margin-right: 1rem; display: inline-block; padding: .2rem 0; }
blockquote { margin: 1rem 0; padding: .75rem 1rem; background: var(--box); border-left: 3px solid var(--accent);
  max-width: 52rem; overflow-wrap: anywhere; }
blockquote p { margin: 0; }
.faint { color: var(--faint); font-size: .9rem; }
.table { overflow: auto; margin: 1rem 0; }
.long { max-height: 36rem; }
table { border-collapse: collapse; font-size: .875rem; }
th, td { padding: .25rem .9rem .25rem 0; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; max-width: 30rem; white-space: nowrap; }
thead th { position: sticky; top: 0; background: var(--paper); white-space: nowrap; }
th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
.word { text-align: left; }
td.words, th.words { text-align: left; white-space: normal; overflow-wrap: break-word; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); margin: .5rem 0; }
.chart { min-width: 0; }
img { max-width: 100%; height: auto; margin: 1rem 0; background: #fff; }
details { border-bottom: 1px solid var(--line); padding: .4rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
pre { background: var(--box); padding: 1rem; overflow: auto; font-size: .8rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
@media (max-width: 40rem) { body { padding: .75rem; } #answer h2 { font-size: 1.4rem; } }
@media print {
  :root { color-scheme: light; --ink: #000; --paper: #fff; --faint: #444; --line: #bbb; --box: #f3f3f3;
    --accent: #000; }
  body { max-width: none; font-size: 10pt; padding: 0; }
  nav, .screen { display: none; }
  .table { overflow: visible; }
  .long { max-height: none; }
  table { font-size: 8pt; }
  th, td { padding-right: .4rem; max-width: 14rem; overflow-wrap: anywhere; }
  thead th { position: static; white-space: normal; }
  tr, .chart, img { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
"""

SCRIPT = """\
const dark = matchMedia("(prefers-color-scheme: dark)");
let printing = false;

function painted(name) {
  const light = printing || !dark.matches;
  const ink = light ? "#1c1e21" : "#e7e9ec", faint = light ? "#e3e6e9" : "#33383d";
  const blue = light ? "#0072b2" : "#56a8e0";
  const text = document.getElementById("chart-" + name).textContent;
  const chart = JSON.parse(text.replaceAll("theme:ink", ink).replaceAll("theme:blue", blue));
  for (const trace of chart.data) if (trace.rows) {
    trace.text = trace.z.map((cells, row) => cells.map((_, column) =>
      trace.rows[row] + (trace.columns.length ? "<br>" + trace.columns[column] : "")));
  }
  for (const [key, axis] of Object.entries(chart.layout)) if (/^[xy]axis/.test(key)) {
    Object.assign(axis, {gridcolor: faint, linecolor: faint, zerolinecolor: faint, fixedrange: narrow()});
  }
  Object.assign(chart.layout, {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: {color: ink, family: "system-ui, sans-serif"},
    margin: {l: 60, r: 15, t: 15, b: 50, ...chart.layout.margin},
    hoverlabel: {align: "left"}, dragmode: narrow() ? false : "zoom",
  });
  return chart;
}

function narrow() { return innerWidth < 640; }

function draw() {
  for (const place of document.querySelectorAll(".chart")) {
    const chart = painted(place.dataset.chart);
    Plotly.react(place, chart.data, chart.layout, {displayModeBar: false, responsive: true});
  }
}

function number(text) {
  const found = parseFloat(text.replaceAll(",", "").replace("<", ""));
  return Number.isNaN(found) ? null : found;
}

function sort(head) {
  const table = head.closest("table"), column = head.cellIndex, body = table.tBodies[0];
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...body.rows].map(row => [row.cells[column].textContent.trim(), row]);
  const numeric = rows.every(([text]) => !text || text === "-" || number(text) !== null);
  rows.sort(([a], [b]) => {
    const missing = (!a || a === "-") - (!b || b === "-");  // last, whichever way the others are sorted
    if (missing) return missing;
    const order = numeric ? number(a) - number(b) : a.localeCompare(b);
    return down ? -order : order;
  });
  body.append(...rows.map(([, row]) => row));
}

for (const head of document.querySelectorAll("thead th")) if (head.textContent) {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  button.onclick = () => sort(head);
  head.append(button);
}

function unfold() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
}

addEventListener("hashchange", unfold);
addEventListener("beforeprint", () => {
  printing = true;
  for (const details of document.querySelectorAll("details")) details.open = true;
  draw();
});
addEventListener("afterprint", () => { printing = false; draw(); });
dark.addEventListener("change", draw);
unfold();
draw();
"""

TEMPLATE = """\
{%- macro table(found) -%}
<div class="table{% if found.rows | length > 30 %} long{% endif %}"><table>
{%- if found.columns | select | list %}
<thead><tr>
{%- for column in found.columns %}<th scope="col"
{%- if column in found.words %} class="words"{% endif %}>{{ column }}</th>
{%- endfor %}</tr></thead>
{%- endif %}
<tbody>
{% for row in found.rows[:most_rows] %}<tr>
{%- for cell in row %}{% set column = found.columns[loop.index0] %}<td
{%- if column in found.words and cell | length > 20 %} class="words"{% elif column in found.words %} class="word"
{%- endif %}>
{%- if column == "trial" and cell in linked %}<a href="#trial-{{ cell }}">{{ cell }}</a>
{%- else %}{{ cell | short }}{% endif -%}
</td>{% endfor -%}
</tr>
{% endfor -%}
</tbody></table></div>
{% if found.rows | length > most_rows -%}
<p class="faint">{{ found.rows | length - most_rows }} more rows are left out.</p>
{% endif -%}
{%- endmacro -%}
{%- macro content(part) -%}
{% for sentence in part.sentences %}<p>{{ sentence }}</p>
{% endfor -%}
{% if part.charts %}<div class="charts">
{%- for name in part.charts if name in charts %}<div class="chart" data-chart="{{ name }}"></div>{% endfor -%}
</div>
{% endif -%}
{% if part.picture in pictures %}<img alt="{{ part.title }}" src="data:image/png;base64,{{ pictures[part.picture] }}">
{% endif -%}
{% for found in part.tables %}{{ table(found) }}{% endfor -%}
{% if part.quote %}<blockquote><p>{{ part.quote }}</p></blockquote>
{% endif -%}
{% if part.text %}<pre>{{ part.text }}</pre>
{% endif -%}
{% for inner in part.parts %}
{% if inner.folded %}<details id="{{ inner.anchor }}"><summary>{{ inner.title }}</summary>
{{ content(inner) }}</details>
{% else %}<h3 id="{{ inner.anchor }}">{{ inner.title }}</h3>
{{ content(inner) }}{% endif -%}
{% endfor -%}
{%- endmacro -%}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data: blob:;
 style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
{{ style | safe }}</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for part in parts %}
<section id="{{ part.anchor }}">
<h2>{{ part.title }}</h2>
{{ content(part) }}
{%- if loop.first %}
<nav>{% for other in parts[1:] %}<a href="#{{ other.anchor }}">{{ other.title }}</a>
{% endfor %}</nav>
<noscript><p class="faint">Charts need JavaScript, which is switched off. All else is here.</p></noscript>
{% endif -%}
</section>
{% endfor -%}
<footer><p class="faint">{{ footer }}</p></footer>
{% for name, chart in charts.items() -%}
<script type="application/json" id="chart-{{ name }}">{{ chart | safe }}</script>
{% endfor -%}
{% if charts %}<script>{{ plotly | safe }}</script>
{% endif -%}
<script>
{{ script | safe }}</script>
</body>
</html>
"""
